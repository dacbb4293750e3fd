'use strict'
// Serves a drive of which it holds all metadata but only some content blocks: --blocks A-B (end
// exclusive, repeatable), or --third 0|1|2 for one of three disjoint parts. Prints {port, key, held}.

const ram = require('random-access-memory')
const { converse, listen, openDrive, openStore, promised, run, say, usage } = require('./peer')

run(async ([directory, key], options) => {
  if (!directory) usage('partial-seed.js DIR [KEY] [--blocks A-B]… [--third N] [--port N]')
  const origin = await openStore(directory)
  const source = await openDrive(origin, key)
  const content = await promised(done => source.getContent(done))

  const store = await openStore(ram)
  const [there, here] = [origin.replicate(false, { live: true }), store.replicate(true, { live: true })]
  there.pipe(here).pipe(there)
  const drive = await openDrive(store, source.key)
  await promised(done => drive.metadata.update({ ifAvailable: false }, done))
  await fetch(drive.metadata, 0, drive.metadata.length)
  const copy = await promised(done => drive.getContent(done))
  const held = blocks(options, content.length)
  for (const [start, end] of held) await fetch(copy, start, end)
  here.destroy()
  there.destroy()

  const server = await listen(store, Number(options.port))
  say({ port: server.address().port, key: drive.key.toString('hex'), length: content.length, held })
  await converse(async () => ({}), async () => { server.close() })
}, {
  deadline: { type: 'string', default: '900' },
  blocks: { type: 'string', multiple: true, default: [] },
  third: { type: 'string' },
  port: { type: 'string', default: '0' }
})

function fetch (feed, start, end) {
  return promised(done => feed.download({ start, end }, done))
}

function blocks (options, length) {
  const ranges = options.blocks.map(text => text.split('-').map(Number))
  if (options.third !== undefined) {
    const n = Number(options.third)
    ranges.push([Math.floor(length * n / 3), Math.floor(length * (n + 1) / 3)])
  }
  return ranges
}
