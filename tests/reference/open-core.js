'use strict'
// Opens a store directory, of the reference or of ours, with the reference: prints every core with its length,
// the outcome of a full audit and the sha256 of what is held. --append KEY TEXT… appends to one.

const crypto = require('crypto')
const { openStore, promised, run, said, say, storedKeys, usage } = require('./peer')

run(async ([directory, ...texts], options) => {
  if (!directory) usage('open-core.js DIR [--append KEY TEXT…]')
  const store = await openStore(directory)
  const cores = []
  for (const key of storedKeys(directory)) {
    const feed = store.get({ key: Buffer.from(key, 'hex'), sparse: true })
    await promised(done => feed.ready(done))
    if (options.append === key) await promised(done => feed.append(texts, done))
    cores.push({ key, ...(await inspect(feed)) })
    await promised(done => feed.close(done))
  }
  if (options.append && !cores.some(core => core.key === options.append)) {
    throw new Error(`no core ${options.append} in ${directory}`)
  }
  say({ cores })
  await said()
  process.exit(0)
}, { append: { type: 'string' } })

async function inspect (feed) {
  const hash = crypto.createHash('sha256')
  let held = 0
  for (let index = 0; index < feed.length; index++) {
    if (!feed.has(index)) continue
    hash.update(await promised(done => feed.get(index, { wait: false }, done)))
    held++
  }
  return {
    discoveryKey: feed.discoveryKey.toString('hex'),
    length: feed.length,
    byteLength: feed.byteLength,
    writable: feed.writable,
    held,
    sha256: hash.digest('hex'),
    audit: await promised(done => feed.audit(done))
  }
}
