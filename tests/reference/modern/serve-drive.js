'use strict'
// Makes (if absent) and serves a drive. Prints {ready, key, discoveryKey, blobsKey, version, fork, length, blobsLength, port},
// then obeys JSON lines on stdin and answers each with {done, version, fork, length, blobsLength}:
//   {"put": PATH, "text" | "size", "executable"?, "metadata"?}   {"symlink": PATH, "target"}   {"del": PATH}
//   {"batch": N, "prefix"?}     N small files in one batch
//   {"rewrite": PREFIX, "files", "from", "count"}     version n of file n % files: one line, repeated as often as n says
//   {"truncate": VERSION}       both cores, the forks rise
//   {"clear": PATH}             drops the blocks of a file here, so that this peer no longer has them
//   {"manifest": true | VERSION} every entry, read whole: {manifest: VERSION, entries}
//   {"status": true}            {connections, open, sent, received} of TCP; {conflict: LENGTH} once another history was proved to a core
//   {"drop": true}              ends all connections
//   {"quit": true}

const { converse, hex, listen, listing, replicate, run, say, swarmOf, unhex, usage } = require('./peer')
const { noise, open } = require('./shapes')

run(async options => {
  if (!options.storage) usage('serve-drive.js --storage DIR [--shape NAME] [--seed N] [--tcp] [--port N] [--dht HOST:PORT] [--encryption-key HEX] [--legacy10]')
  const { store, drive, change } = await open(options.storage, {
    shape: options.shape,
    seed: options.seed,
    legacy10: options.legacy10,
    encryptionKey: unhex(options['encryption-key'])
  })
  const blobs = await drive.getBlobs()

  let conflict
  for (const core of [drive.core, blobs.core]) core.on('conflict', length => { conflict = length })

  const traffic = { connections: 0, sent: 0, received: 0 }
  const sockets = new Set()
  const ready = {}
  if (options.tcp || !options.dht) {
    const server = await listen(Number(options.port), socket => {
      traffic.connections++
      sockets.add(socket)
      socket.on('close', () => {
        sockets.delete(socket)
        traffic.sent += socket.bytesWritten
        traffic.received += socket.bytesRead
      })
      replicate(store, false, socket)
    })
    ready.port = server.address().port
  }
  let swarm = null
  if (options.dht) {
    swarm = swarmOf(options.dht, connection => store.replicate(connection))
    await swarm.join(drive.discoveryKey, { server: true, client: false }).flushed()
  }

  const state = () => ({ version: drive.version, fork: drive.core.fork, length: drive.core.length, blobsLength: blobs.core.length })
  const commands = {
    put: c => change(to => to.put(c.put, body(c), { executable: !!c.executable, metadata: c.metadata || null })),
    symlink: c => change(to => to.symlink(c.symlink, c.target)),
    del: c => change(to => to.del(c.del)),
    truncate: c => change(to => to.truncate(c.truncate)),
    batch: c => change(async to => {
      const batch = to.batch()
      for (let n = 0; n < c.batch; n++) await batch.put(`${c.prefix || '/batch'}/${n}`, Buffer.from(`number ${n}\n`))
      await batch.flush()
    }),
    rewrite: c => change(async to => {
      for (let n = c.from; n < c.from + c.count; n++) {
        await to.put(`${c.rewrite}/${n % c.files}`, Buffer.from(`version ${n}\n`.repeat(1 + n % 3000)))
      }
    }),
    clear: c => drive.clear(c.clear).then(() => {}),
    manifest: async c => {
      const version = c.manifest === true ? drive.version : c.manifest
      return { manifest: version, entries: await listing(drive, version) }
    },
    status: async () => {
      const now = { ...traffic, open: sockets.size, conflict }
      for (const socket of sockets) {
        now.sent += socket.bytesWritten
        now.received += socket.bytesRead
      }
      return now
    },
    drop: async () => {
      for (const socket of sockets) socket.destroy()
      if (swarm) for (const connection of swarm.connections) connection.destroy()
    }
  }

  say({ ready: true, key: hex(drive.key), discoveryKey: hex(drive.discoveryKey), blobsKey: hex(blobs.core.key), ...state(), ...ready })
  await converse(async command => {
    const name = Object.keys(commands).find(name => command[name] !== undefined)
    if (!name) throw new Error(`unknown command ${JSON.stringify(command)}`)
    const answer = await commands[name](command)
    return { done: name, ...state(), ...answer }
  }, async () => {
    for (const socket of sockets) socket.destroy()
    if (swarm) await swarm.destroy()
    await store.close()
  })
}, {
  storage: { type: 'string' },
  shape: { type: 'string', default: 'small' },
  seed: { type: 'string', default: '1' },
  tcp: { type: 'boolean', default: false },
  port: { type: 'string', default: '0' },
  dht: { type: 'string' },
  'encryption-key': { type: 'string' },
  legacy10: { type: 'boolean', default: false }
})

function body (command) {
  return command.size === undefined ? Buffer.from(command.text || '') : noise(command.put, command.size)
}
