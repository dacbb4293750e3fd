'use strict'
// A seeder without the encryption key: downloads both cores of a drive completely from one peer, follows what is appended,
// and serves them by TCP. Prints {ready, port, length, fork, blobsLength, blobsFork} when it holds everything, and
// {seeded: {length, …}} when it does again after a change. Ends with stdin.

const { address, converse, dial, freshStore, listen, replicate, run, say, unhex, usage } = require('./peer')

run(async options => {
  if (!options.key || !options.blobs || !options.tcp) usage('seed.js --key KEY --blobs KEY --tcp HOST:PORT [--port N] [--leave]')
  address(options.tcp)
  const store = freshStore()
  const cores = [options.key, options.blobs].map(key => store.get({ key: unhex(key) }))
  for (const core of cores) await core.ready()
  const source = await dial(store, options.tcp)
  for (const core of cores) core.download({ start: 0, end: -1 })

  const [db, blobs] = cores
  const state = () => ({ length: db.length, fork: db.fork, blobsLength: blobs.length, blobsFork: blobs.fork })
  const held = () => cores.every(core => {
    return core.contiguousLength === core.length && core.peers.every(peer => !peer.remoteSynced || peer.remoteLength <= core.length)
  })
  await until(() => cores.every(core => core.peers.some(peer => peer.remoteSynced)) && held())
  if (options.leave) source.destroy()

  const sockets = new Set()
  const server = await listen(Number(options.port), socket => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    replicate(store, false, socket)
  })
  let told = state()
  say({ ready: true, port: server.address().port, ...told })
  follow()

  async function follow () {
    for (;;) {
      await until(() => held() && JSON.stringify(state()) !== JSON.stringify(told))
      told = state()
      say({ seeded: told })
    }
  }

  await converse(async () => state(), async () => {
    source.destroy()
    for (const socket of sockets) socket.destroy()
    await store.close()
  })
}, {
  key: { type: 'string' },
  blobs: { type: 'string' },
  tcp: { type: 'string' },
  port: { type: 'string', default: '0' },
  leave: { type: 'boolean', default: false }
})

/** Resolves when `condition` holds; hypercore has no event for "everything there is". */
async function until (condition) {
  while (!condition()) await new Promise(resolve => setTimeout(resolve, 20))
}
