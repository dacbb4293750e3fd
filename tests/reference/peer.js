'use strict'
// What the reference peers share: promises over callbacks, a hard deadline, JSON lines in and out,
// walking a drive, and the two ends of a socket. Each program beside this file does one thing.

const crypto = require('crypto')
const fs = require('fs')
const net = require('net')
const path = require('path')
const readline = require('readline')
const { parseArgs } = require('util')

const Corestore = require('corestore')
const hyperdrive = require('hyperdrive')

/** Seconds after which a program ends itself in any case. */
const DEFAULT_DEADLINE = 120

/** Runs `main`; a failure or the deadline ends the process with a JSON line that says why. */
function run (main, options = {}) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { deadline: { type: 'string', default: String(DEFAULT_DEADLINE) }, ...options }
  })
  const seconds = Number(values.deadline)
  setTimeout(() => fail(new Error(`deadline of ${seconds} s passed`), 3), seconds * 1000).unref()
  process.on('unhandledRejection', fail)
  process.on('uncaughtException', fail)
  main(positionals, values).catch(fail)
}

function fail (error, code = 1) {
  const line = JSON.stringify({ error: error && error.message ? error.message : String(error) })
  fs.writeSync(1, line + '\n') // synchronous: process.exit would drop what a pipe has not taken
  if (error && error.stack) fs.writeSync(2, error.stack + '\n')
  process.exit(typeof code === 'number' ? code : 1)
}

function usage (text) {
  fs.writeSync(2, `usage: ${text}\n`)
  process.exit(2)
}

/** A callback API's result as a promise: `await promised(done => feed.append(blocks, done))`. */
function promised (start) {
  return new Promise((resolve, reject) => {
    start((error, value) => (error ? reject(error) : resolve(value)))
  })
}

/** Prints one JSON value on a line of its own. */
function say (value) {
  process.stdout.write(JSON.stringify(value) + '\n')
}

/** Resolves when what was said has left the process, so that a large answer is never cut. */
function said () {
  return new Promise(resolve => process.stdout.write('', resolve))
}

/** Calls `answer` for each JSON line on stdin, one at a time, and `end` when stdin closes. */
async function converse (answer, end) {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    if (line.trim() === '') continue
    try {
      const command = JSON.parse(line)
      const value = await answer(command)
      if (command.op === 'close') break
      say({ ok: true, ...value })
    } catch (error) {
      say({ error: error.message })
    }
  }
  await end()
  await said()
  process.exit(0)
}

async function openStore (storage) {
  const store = new Corestore(storage)
  await store.ready()
  return store
}

async function openDrive (store, key, options = {}) {
  const drive = hyperdrive(store, key ? Buffer.from(key, 'hex') : null, options)
  await drive.promises.ready()
  return drive
}

/** Listens on localhost and replicates `store` over every connection. */
async function listen (store, port = 0, onSocket = () => {}) {
  const server = net.createServer(socket => {
    onSocket(socket)
    const stream = store.replicate(false, { live: true })
    socket.on('error', () => stream.destroy())
    stream.on('error', () => socket.destroy())
    socket.pipe(stream).pipe(socket)
  })
  await new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, '127.0.0.1', resolve)
  })
  return server
}

/** Dials a peer and replicates `store` with it; the socket counts the bytes. */
async function dial (store, port, host = '127.0.0.1') {
  const socket = net.connect(Number(port), host)
  await new Promise((resolve, reject) => {
    socket.once('connect', resolve)
    socket.once('error', reject)
  })
  const stream = store.replicate(true, { live: true })
  socket.on('error', () => stream.destroy())
  stream.on('error', () => socket.destroy())
  socket.pipe(stream).pipe(socket)
  return socket
}

/**
 * What lies at `name`, as the tests compare it. For a directory without an entry of its own the
 * reference answers with the stat of something below it, link target and size included; only its
 * mode and times mean anything, so only those are told.
 */
async function describe (drive, name, withContent) {
  const stat = await promised(done => drive.lstat(name, (error, value) => done(error, value)))
  const entry = { type: typeOf(stat), mode: stat.mode, uid: stat.uid, gid: stat.gid, mtime: +stat.mtime }
  const attributes = Object.entries(stat.metadata || {})
  if (attributes.length > 0) entry.attributes = Object.fromEntries(attributes.map(([k, v]) => [k, v.toString('hex')]))
  if (stat.mount) entry.mount = stat.mount.key.toString('hex')
  if (entry.type === 'symlink') entry.target = stat.linkname
  if (entry.type === 'file') {
    entry.size = stat.size
    if (withContent) entry.sha256 = await hashFile(drive, name)
  }
  return entry
}

function typeOf (stat) {
  const { S_IFMT, S_IFDIR, S_IFLNK, S_IFREG } = fs.constants
  const types = { [S_IFDIR]: 'directory', [S_IFLNK]: 'symlink', [S_IFREG]: 'file' }
  return types[stat.mode & S_IFMT] || 'other'
}

function hashFile (drive, name) {
  const hash = crypto.createHash('sha256')
  return new Promise((resolve, reject) => {
    drive.createReadStream(name)
      .on('data', data => hash.update(data))
      .on('error', reject)
      .on('end', () => resolve(hash.digest('hex')))
  })
}

/**
 * Every entry below the root, by path without a leading slash, in sorted order. Goes down folder by
 * folder: the reference's own recursive listing follows symbolic links and then fails.
 */
async function walk (drive, withContent) {
  const found = []
  const folders = ['']
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    for (const name of await promised(done => drive.readdir('/' + folder, done))) {
      const path = folder ? `${folder}/${name}` : name
      const entry = await describe(drive, '/' + path, withContent)
      found.push([path, entry])
      if (entry.type === 'directory') folders.push(path)
    }
  }
  return Object.fromEntries(found.sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** Public keys of all cores in a store directory, as hex. */
function storedKeys (directory) {
  const keys = []
  const folders = at => fs.readdirSync(at, { withFileTypes: true }).filter(e => e.isDirectory()).map(e => path.join(at, e.name))
  for (const first of folders(directory)) {
    for (const second of folders(first)) {
      for (const core of folders(second)) {
        const file = path.join(core, 'key')
        if (fs.existsSync(file)) keys.push(fs.readFileSync(file).toString('hex'))
      }
    }
  }
  return keys.sort()
}

module.exports = {
  converse, describe, dial, fail, hashFile, listen, openDrive, openStore, promised, run, said, say, storedKeys, usage, walk
}
