'use strict'
// Reads a whole drive from one peer, or from what a swarm finds, into fresh storage. Prints
// {manifest: VERSION, entries, fork, length, blobsKey, blobsLength, received, milliseconds}: entries as serve-drive.js lists them,
// milliseconds since the start of the program until connected and read, received the bytes of all connections. With --watch
// it prints one more after each change, and {conflict: LENGTH} if two histories were proved to it, until stdin or --deadline
// ends. With --compare, each report after the first has `changed`, the paths that a diff with the version reported before names, and `past`, whether
// a checkout of that version still lists the same. With --mirror, the drive is mirrored into that directory before each report. {"dial": "HOST:PORT"} on stdin connects it to one more peer. Without --watch, it ends with code 3 when --timeout (seconds) has passed.

const { converse, dial, freshStore, hex, leave, listing, openDrive, run, say, swarmOf, unhex, usage } = require('./peer')

// The one that the drives program brings.
const Localdrive = require('../drives/node_modules/localdrive')

const started = Date.now()

run(async options => {
  if (!options.key || (!options.tcp && !options.dht)) {
    usage('read-drive.js --key KEY (--tcp HOST:PORT… | --dht HOST:PORT) [--encryption-key HEX] [--version N] [--once | --watch] [--legacy10] [--timeout S]')
  }
  const { legacy10 } = options
  const store = freshStore({ legacy10 })
  const drive = await openDrive(store, unhex(options.key), { legacy10, encryptionKey: unhex(options['encryption-key']) })
  const milliseconds = {}
  const sockets = []
  const searched = drive.findingPeers()
  if (options.dht) {
    const swarm = swarmOf(options.dht, connection => {
      sockets.push(connection.rawStream)
      store.replicate(connection)
    })
    swarm.join(drive.discoveryKey, { server: false, client: true })
    swarm.flush().then(searched, searched)
  }
  for (const where of options.tcp || []) sockets.push(await dial(store, where))
  // A connection is proof of nothing: a peer counts when it has told its length.
  await until(() => synced(drive).length > 0)
  if (!options.dht) searched()
  milliseconds.connected = Date.now() - started
  await until(() => drive.core.length > 0 || (synced(drive).length > 0 && synced(drive).every(peer => peer.remoteLength === 0)))

  let last = null
  const report = async () => {
    const version = options.version ? Number(options.version) : drive.version
    const entries = await listing(drive, version)
    const blobs = drive.blobs
    milliseconds.read = Date.now() - started
    const compared = options.compare && last ? await compare(drive, last, version) : {}
    last = { version, entries }
    if (options.mirror) await drive.checkout(version).mirror(new Localdrive(options.mirror)).done()
    say({
      ...compared,
      manifest: version,
      entries,
      fork: drive.core.fork,
      length: drive.core.length,
      blobsKey: blobs && hex(blobs.core.key),
      blobsLength: blobs && blobs.core.length,
      received: sockets.reduce((sum, socket) => sum + (socket.bytesRead || socket.bytesReceived || 0), 0),
      milliseconds
    })
  }
  if (!options.watch) {
    await report()
    return leave()
  }
  drive.core.on('conflict', length => say({ conflict: length }))
  converse(async command => {
    if (command.dial) await dial(store, command.dial)
    return { version: drive.version, fork: drive.core.fork }
  })
  follow(drive, report)
}, {
  key: { type: 'string' },
  tcp: { type: 'string', multiple: true },
  dht: { type: 'string' },
  'encryption-key': { type: 'string' },
  version: { type: 'string' },
  legacy10: { type: 'boolean', default: false },
  compare: { type: 'boolean', default: false },
  mirror: { type: 'string' },
  once: { type: 'boolean', default: false },
  watch: { type: 'boolean', default: false },
  timeout: { type: 'string', default: '120' }
})

function synced (drive) {
  return drive.core.peers.filter(peer => peer.remoteSynced)
}

async function compare (drive, last, version) {
  const changed = []
  const now = drive.checkout(version)
  for await (const { left, right } of now.diff(last.version, '/')) changed.push((left || right).key)
  await now.close()
  const before = await listing(drive, last.version)
  return { changed, past: JSON.stringify(before) === JSON.stringify(last.entries) }
}

async function until (condition) {
  while (!condition()) await new Promise(resolve => setTimeout(resolve, 5))
}

/**
 * Reports the drive now and after each change of the index or of its content: that is truncated later, and until then a
 * report may have the bytes of before. A report that a truncation overtook is given up; it may fail after the last
 * event, so it is made again.
 */
async function follow (drive, report) {
  let changed = () => {}
  const onChange = () => changed()
  const blobs = await drive.getBlobs()
  for (const core of [drive.core, blobs.core]) core.on('append', onChange).on('truncate', onChange)
  for (;;) {
    let again = false
    const change = new Promise(resolve => { changed = () => { again = true; resolve() } })
    const abandon = error => {
      again = true
      say({ abandoned: error.message })
      return new Promise(resolve => setTimeout(resolve, 20))
    }
    await Promise.race([report().catch(abandon), truncated(drive)])
    if (!again) await change
  }
}

function truncated (drive) {
  return new Promise(resolve => drive.core.once('truncate', resolve))
}
