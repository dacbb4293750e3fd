'use strict'
// Reads a whole drive (or ranges of files) from one peer into a fresh store, or (--store DIR without
// a port) from disk. Prints {version, entries, ranges, received}: the listing with sha256 sums.

const crypto = require('crypto')
const ram = require('random-access-memory')
const { dial, openDrive, openStore, promised, run, said, say, usage, walk } = require('./peer')

run(async ([key, port], options) => {
  if (!key || (!port && !options.store)) {
    usage('read-drive.js KEY PORT [--host H] [--store DIR] [--range PATH:START:LENGTH]… [--deadline S]')
  }
  const store = await openStore(options.store || ram)
  const drive = await openDrive(store, key)
  const socket = port ? await dial(store, port, options.host) : null
  // A fresh drive knows no length yet, and would report itself empty.
  if (socket && drive.metadata.length === 0) await promised(done => drive.metadata.update({ ifAvailable: false }, done))

  const answer = {}
  if (options.range) {
    answer.ranges = []
    for (const range of options.range) answer.ranges.push(await readRange(drive, range))
  } else {
    answer.entries = await walk(drive, true)
  }
  answer.version = drive.version
  answer.writable = drive.writable
  if (socket) {
    answer.received = socket.bytesRead
    socket.destroy()
  }
  say(answer)
  await said()
  process.exit(0)
}, {
  host: { type: 'string', default: '127.0.0.1' },
  store: { type: 'string' },
  range: { type: 'string', multiple: true }
})

async function readRange (drive, text) {
  const [, path, start, length] = /^(.*):(\d+):(\d+)$/.exec(text)
  const hash = crypto.createHash('sha256')
  let size = 0
  await new Promise((resolve, reject) => {
    drive.createReadStream(path, { start: Number(start), length: Number(length) })
      .on('data', data => { hash.update(data); size += data.length })
      .on('error', reject)
      .on('end', resolve)
  })
  return { range: text, size, sha256: hash.digest('hex') }
}
