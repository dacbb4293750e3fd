'use strict'
// Hyperswarm 4 (npm hyperdht 6, hyperswarm 4) with drives of Hyperdrive 10. One of
//   nodes HOST PORT COUNT     a bootstrap node of a HyperDHT and COUNT others at the ports after it;
//                             prints {port} when they know each other
//   serve DIR                 announces the drive of a directory (made if absent); prints {key}, and
//                             obeys {"path", "text"}, a file to write, on stdin
//   read KEY                  finds a drive by its key alone; prints {version, entries}
//   idle KEY                  announces the topic of a drive, opens another protocol and counts its
//                             connections: {} on stdin is answered {connections, open}
//   peers KEY                 looks up the peers that announced a drive; prints {peers}, their number
//   flood KEY                 finds a drive's server and sends it more than it has granted; prints
//                             {granted, sent} when the server has ended the connection
// with --bootstrap HOST:PORT.
//
// The replication of Hyperdrive 10 runs in the protomux channel that docs/decisions/0013 describes: the
// name below, a handshake of three numbers, pieces of the stream as message 0, the number of further
// bytes that may be sent as message 1.

const DHT = require('hyperdht')
const Hyperswarm = require('hyperswarm-4')
const Protomux = require('protomux')
const c = require('compact-encoding')
const ram = require('random-access-memory')
const crypto = require('hypercore-crypto')

const { converse, openDrive, openStore, promised, run, said, say, usage, walk } = require('./peer')

const PROTOCOL = 'hypermount/hypercore-protocol-8'
const VERSION = 1
const WINDOW = 1024 * 1024
const PIECE = 64 * 1024
const FLOOD = 64 * WINDOW

const modes = { nodes, serve, read, idle, peers, flood }

run(async ([mode, what, ...rest], options) => {
  if (!modes[mode] || !what) {
    usage('find-hyperdht.js nodes HOST PORT COUNT | serve DIR | read KEY | idle KEY | peers KEY | flood KEY [--bootstrap HOST:PORT]')
  }
  await modes[mode](what, options, rest)
}, {
  deadline: { type: 'string', default: '120' },
  bootstrap: { type: 'string' }
})

async function nodes (host, options, [port, count]) {
  const all = [DHT.bootstrapper(Number(port), host)]
  await all[0].ready()
  for (let n = 1; n <= Number(count); n++) {
    const bootstrap = [{ host, port: Number(port) }]
    const node = new DHT({ bootstrap, host, port: Number(port) + n, ephemeral: false, firewalled: false })
    await node.ready()
    all.push(node)
  }
  say({ port: all[0].address().port })
  await converse(async () => ({}), async () => Promise.all(all.map(node => node.destroy())))
}

function swarmOf (options) {
  const [host, port] = options.bootstrap.split(':')
  return new Hyperswarm({ bootstrap: [{ host, port: Number(port) }] })
}

const handshake = {
  preencode (state, numbers) { for (const number of numbers) c.uint.preencode(state, number) },
  encode (state, numbers) { for (const number of numbers) c.uint.encode(state, number) },
  decode (state) { return [c.uint.decode(state), c.uint.decode(state), c.uint.decode(state)] }
}

/** Opens our channel; calls `on.open(window)`, `on.piece(bytes)` and `on.granted(bytes)`. */
function openChannel (connection, on) {
  const mux = Protomux.from(connection)
  const channel = mux.createChannel({
    protocol: PROTOCOL,
    handshake,
    messages: [
      { encoding: c.raw, onmessage: on.piece || (() => {}) },
      { encoding: c.uint, onmessage: on.granted || (() => {}) }
    ],
    onopen: ([version, port, window]) => on.open(window, port, version),
    onclose: () => connection.end()
  })
  channel.open([VERSION, 0, WINDOW])
  return { piece: channel.messages[0], grant: channel.messages[1] }
}

/** Runs the original's replication in a channel of a connection. */
function carry (store, connection) {
  const stream = store.replicate(connection.isInitiator, { live: true })
  let granted = 0
  let waiting = []
  const channel = openChannel(connection, {
    open: window => { granted = window; flush() },
    piece: bytes => {
      // The stream buffers every piece, so the remote may send as many bytes again at once.
      stream.write(bytes)
      channel.grant.send(bytes.length)
    },
    granted: bytes => { granted += bytes; flush() }
  })
  function flush () {
    while (waiting.length > 0 && granted > 0) {
      const next = waiting.shift()
      const piece = next.subarray(0, Math.min(granted, PIECE))
      if (piece.length < next.length) waiting.unshift(next.subarray(piece.length))
      granted -= piece.length
      channel.piece.send(piece)
    }
  }
  stream.on('data', bytes => { waiting.push(bytes); flush() })
  stream.on('error', () => connection.destroy())
  connection.on('error', () => {})
  connection.on('close', () => { waiting = []; stream.destroy() })
}

async function serve (directory, options) {
  const store = await openStore(directory)
  const drive = await openDrive(store)
  await promised(done => drive.getContent(done)) // so that it is replicated from the start
  const swarm = swarmOf(options)
  swarm.on('connection', connection => carry(store, connection))
  await swarm.join(drive.discoveryKey, { server: true, client: false }).flushed()
  say({ key: drive.key.toString('hex') })
  await converse(async command => {
    await promised(done => drive.writeFile(command.path, command.text, done))
    return { version: drive.version }
  }, () => swarm.destroy())
}

async function read (key, options) {
  const store = await openStore(ram)
  const drive = await openDrive(store, key)
  const swarm = swarmOf(options)
  swarm.on('connection', connection => carry(store, connection))
  swarm.join(drive.discoveryKey, { server: false, client: true })
  await swarm.flush()
  if (drive.metadata.length === 0) await promised(done => drive.metadata.update({ ifAvailable: false }, done))
  say({ version: drive.version, entries: await walk(drive, true) })
  await said()
  process.exit(0)
}

async function idle (key, options) {
  const swarm = swarmOf(options)
  const counts = { connections: 0, open: 0 }
  swarm.on('connection', connection => {
    counts.connections++
    counts.open++
    connection.on('error', () => {})
    connection.on('end', () => connection.end())
    connection.on('close', () => { counts.open-- })
    const mux = Protomux.from(connection)
    mux.createChannel({ protocol: 'something/else', messages: [{ encoding: c.raw }] }).open()
  })
  await swarm.join(crypto.discoveryKey(Buffer.from(key, 'hex')), { server: true, client: false }).flushed()
  say({ ready: true })
  await converse(async () => counts, () => swarm.destroy())
}

async function peers (key, options) {
  const [host, port] = options.bootstrap.split(':')
  const node = new DHT({ bootstrap: [{ host, port: Number(port) }] })
  const all = new Set()
  for await (const answer of node.lookup(crypto.discoveryKey(Buffer.from(key, 'hex')))) {
    for (const peer of answer.peers) all.add(peer.publicKey.toString('hex'))
  }
  say({ peers: all.size })
  await said()
  process.exit(0)
}

async function flood (key, options) {
  const swarm = swarmOf(options)
  swarm.on('connection', connection => {
    let granted = 0
    let sent = 0
    let ended = false
    const channel = openChannel(connection, {
      open: window => {
        granted = window
        // At once, before the server can grant more bytes.
        while (sent <= granted) {
          channel.piece.send(Buffer.alloc(PIECE))
          sent += PIECE
        }
        const send = () => {
          if (ended || sent >= FLOOD) return
          channel.piece.send(Buffer.alloc(PIECE))
          sent += PIECE
          setImmediate(send)
        }
        send()
      },
      // Counted only: the flood does not wait for it.
      granted: bytes => { granted += bytes }
    })
    connection.on('error', () => {})
    connection.on('close', async () => {
      if (ended) return
      ended = true
      say({ granted, sent })
      await said()
      process.exit(0)
    })
  })
  swarm.join(crypto.discoveryKey(Buffer.from(key, 'hex')), { server: false, client: true })
  await swarm.flush()
}
