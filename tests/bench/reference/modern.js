'use strict'
// Hyperdrive 13 as the benchmark runs it: importer, server and reader. It has no mount, so the reader uses the
// API. The published packages are used as they are, with their defaults; they are those of the tests.
//
//   node modern.js import STORE DIR              copy DIR into a new drive, print its key
//   node modern.js serve STORE KEY               answer peers; the first line is HOST:PORT
//   node modern.js read STORE KEY PEER DIR       open a remote drive into an empty store, print "opened"
//
// The reader then answers each line of JSON on stdin, {do, path, limit, ...}, with a line {seconds, count, bytes,
// cut, good}: `good` says whether the bytes are those of DIR, which is compared after the clock has stopped;
// `cut` that `limit` seconds ended the work.
//
// `serve` and `read` end on SIGTERM and SIGINT.

const fs = require('fs')
const path = require('path')
const readline = require('readline')
const { pipeline } = require('stream/promises')
const { HOST, dial, hex, listen, openDrive, openStore, replicate, unhex } = require('../../reference/modern/peer')

/** What the benchmark reads: the reference prints events of its own through the console. */
const print = line => process.stdout.write(line + '\n')

/** Files of up to this size are written in batches, one block each. */
const SMALL = 64 << 10
const BATCH = 128

async function importTree (directory, source) {
  // The name decides the keys: the same data set has the same key wherever it is made.
  const drive = await openDrive(openStore(directory, 'bench ' + path.basename(directory)), null)
  let batch = null
  let waiting = 0
  const flush = async () => {
    if (batch) await batch.flush()
    batch = null
    waiting = 0
  }
  for (const name of namesOf(source)) {
    const file = path.join(source, name)
    if (fs.statSync(file).size > SMALL) {
      await flush()
      await pipeline(fs.createReadStream(file), drive.createWriteStream('/' + name))
      continue
    }
    batch = batch || drive.batch()
    await batch.put('/' + name, fs.readFileSync(file))
    if (++waiting === BATCH) await flush()
  }
  await flush()
  await drive.getBlobs()
  print(hex(drive.key))
  await drive.close()
}

/** The files below a directory, in order of their names. */
function namesOf (root, prefix = '') {
  const entries = fs.readdirSync(path.join(root, prefix), { withFileTypes: true })
  return entries.sort((a, b) => (a.name < b.name ? -1 : 1)).flatMap(entry => {
    const name = path.posix.join(prefix, entry.name)
    return entry.isDirectory() ? namesOf(root, name) : [name]
  })
}

async function serve (directory, key) {
  const store = openStore(directory, 'bench ' + path.basename(directory))
  const drive = await openDrive(store, unhex(key))
  await drive.getBlobs()
  const server = await listen(0, socket => replicate(store, false, socket))
  print(HOST + ':' + server.address().port)
}

async function read (directory, key, peer, plain) {
  const store = openStore(directory, 'bench reader')
  const drive = await openDrive(store, unhex(key))
  const searched = drive.findingPeers()
  await dial(store, peer)
  while (drive.core.length === 0) await drive.core.update({ wait: true })
  searched()
  print('opened')
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line)
    print(JSON.stringify(await timed(command, drive, plain)))
  }
}

async function timed (command, drive, plain) {
  const started = process.hrtime.bigint()
  const elapsed = () => Number(process.hrtime.bigint() - started) / 1e9
  const late = () => elapsed() > command.limit
  const work = await workloads[command.do](drive, command, late)
  const answer = { seconds: elapsed(), count: work.count, bytes: 0, cut: !!work.cut, good: true }
  for (const { name, start, chunks } of work.read || []) {
    const bytes = Buffer.concat(chunks)
    answer.bytes += bytes.length
    answer.good = answer.good && sameBytes(path.join(plain, name), start, bytes)
  }
  return answer
}

function sameBytes (file, start, bytes) {
  const expected = Buffer.alloc(bytes.length)
  const fd = fs.openSync(file)
  const length = fs.readSync(fd, expected, 0, expected.length, start)
  fs.closeSync(fd)
  return length === bytes.length && bytes.equals(expected)
}

async function counted (entries, late) {
  let count = 0
  for await (const entry of entries) {
    if (entry) count++
    if (late()) return { count, cut: true }
  }
  return { count }
}

async function streamed (drive, name, options, late) {
  const read = { name, start: options.start || 0, chunks: [] }
  for await (const chunk of drive.createReadStream('/' + name, options)) {
    read.chunks.push(chunk)
    if (late()) return { count: 1, cut: true, read: [read] }
  }
  return { count: 1, read: [read] }
}

const workloads = {
  list: (drive, command, late) => counted(drive.list('/', { recursive: true }), late),
  readdir: (drive, command, late) => counted(drive.readdir('/'), late),
  file: async (drive, { path: name }) => {
    return { count: 1, read: [{ name, start: 0, chunks: [await drive.get('/' + name)] }] }
  },
  stream: (drive, { path: name, start, length }, late) => {
    return streamed(drive, name, length ? { start, length } : {}, late)
  },
  files: async (drive, { paths }, late) => {
    const read = []
    for (const name of paths) {
      read.push({ name, start: 0, chunks: [await drive.get('/' + name)] })
      if (late()) return { count: read.length, cut: read.length < paths.length, read }
    }
    return { count: read.length, read }
  }
}

const commands = { import: importTree, serve, read }
const [command, ...operands] = process.argv.slice(2)
if (!commands[command]) {
  console.error('usage: see the head of this file')
  process.exit(2)
}
process.once('SIGTERM', () => process.exit(0)).once('SIGINT', () => process.exit(0))
commands[command](...operands).catch(error => {
  console.error(error)
  process.exit(1)
})
