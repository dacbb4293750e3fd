'use strict'
// What the programs beside this file share: options, JSON lines in and out, a hard deadline, stores and
// drives of both generations, the two transports, and the listing by which drives are compared.
// Not here: what a drive contains (shapes.js), lies (lies.js).

const crypto = require('crypto')
const fs = require('fs')
const net = require('net')
const os = require('os')
const path = require('path')
const readline = require('readline')
const { parseArgs } = require('util')

const Corestore = require('corestore')
const Corestore6 = require('corestore-6')
const Hyperdrive = require('hyperdrive')
const Hyperdrive11 = require('hyperdrive-11')
const HyperDHT = require('hyperdht')
const Hyperswarm = require('hyperswarm')
const NoiseSecretStream = require('@hyperswarm/secret-stream')
const SubEncoder = require('sub-encoder')

const HOST = '127.0.0.1'
/** Seconds after which a program ends itself in any case. */
const DEFAULT_DEADLINE = 900
/** How many files `listing` reads at once. */
const READERS = 16
/** Keys of the entries of a drive as bytes: names need not be UTF-8. */
const RAW_NAMES = new SubEncoder('files', 'binary')

// The reference prints some events; stdout has JSON alone.
console.log = console.error

/**
 * Runs `main` with the options; a failure or the deadline ends the process with a JSON line that says why. The timer
 * also keeps a program alive whose last connection has gone, which Node would end with code 0.
 */
function run (main, options = {}) {
  let values
  try {
    values = parseArgs({ options: { deadline: { type: 'string', default: String(DEFAULT_DEADLINE) }, ...options } }).values
  } catch (error) {
    return fail(error, 2)
  }
  const seconds = Number(values.watch ? values.deadline : values.timeout || values.deadline)
  setTimeout(() => fail(new Error(`deadline of ${seconds} s passed`), 3), seconds * 1000)
  process.on('unhandledRejection', error => fail(error))
  process.on('uncaughtException', error => fail(error))
  main(values).catch(error => fail(error))
}

function fail (error, code = 1) {
  const line = JSON.stringify({ error: error && error.message ? error.message : String(error) })
  fs.writeSync(1, line + '\n') // synchronous: process.exit would drop what a pipe has not taken
  if (error && error.stack) fs.writeSync(2, error.stack + '\n')
  process.exit(code)
}

function usage (text) {
  fs.writeSync(2, `usage: ${text}\n`)
  process.exit(2)
}

/** Prints one JSON value on a line of its own. */
function say (value) {
  process.stdout.write(JSON.stringify(value) + '\n')
}

/** Ends the process when what was said has left it, so that a large answer is never cut. */
async function leave (code = 0) {
  await new Promise(resolve => process.stdout.write('', resolve))
  process.exit(code)
}

/** Calls `answer` for each JSON line on stdin, one at a time, until `{"quit": true}` or the end of stdin. */
async function converse (answer, end = async () => {}) {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    if (line.trim() === '') continue
    try {
      const command = JSON.parse(line)
      if (command.quit !== undefined) break
      say(await answer(command))
    } catch (error) {
      say({ error: error.message })
    }
  }
  await Promise.race([end(), new Promise(resolve => setTimeout(resolve, 5000))])
  await leave()
}

const hex = bytes => bytes ? Buffer.from(bytes).toString('hex') : null
const unhex = text => text ? Buffer.from(text, 'hex') : null

/** 32 bytes that depend on the arguments alone. */
function seeded (...parts) {
  return crypto.createHash('sha256').update(['hypermount', ...parts].join('\0')).digest()
}

/** A store whose keys depend on `seed` alone, of corestore 7 or (`legacy10`) of corestore 6. */
function openStore (directory, seed, { legacy10 = false, compat = false } = {}) {
  const primaryKey = seeded('store', seed)
  if (legacy10) return new Corestore6(directory, { primaryKey, compat, unsafe: true })
  return new Corestore(directory, { primaryKey, unsafe: true })
}

/** A store with keys of its own in a directory that is removed at the end. */
function freshStore ({ legacy10 = false } = {}) {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'hypermount-peer-'))
  process.on('exit', () => fs.rmSync(directory, { recursive: true, force: true }))
  return legacy10 ? new Corestore6(directory) : new Corestore(directory)
}

async function openDrive (store, key, { legacy10 = false, encryptionKey = null } = {}) {
  const Drive = legacy10 ? Hyperdrive11 : Hyperdrive
  const drive = new Drive(store, key, { encryptionKey })
  await drive.ready()
  return drive
}

function address (text) {
  const [, host, port] = /^(.*):(\d+)$/.exec(text) || usage(`HOST:PORT and not ${text}`)
  return { host, port: Number(port) }
}

/** Listens on localhost; `accept(socket)` is called for each connection. */
async function listen (port, accept) {
  const server = net.createServer({ noDelay: true }, socket => {
    socket.on('error', () => {})
    accept(socket)
  })
  await new Promise((resolve, reject) => server.once('error', reject).listen(port, HOST, resolve))
  return server
}

/** Runs the replication of a store on a connection. */
function replicate (store, initiator, socket) {
  const stream = new NoiseSecretStream(initiator, socket)
  stream.on('error', () => socket.destroy())
  socket.on('error', () => {})
  store.replicate(stream)
  return stream
}

/** Dials a peer; resolves with the socket when the TCP connection is there. */
async function dial (store, where) {
  const { host, port } = address(where)
  const socket = net.connect({ host, port, noDelay: true })
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject))
  replicate(store, true, socket)
  return socket
}

/**
 * A swarm with a private bootstrap node. On localhost both sides are told that no firewall is before them: with one
 * machine's addresses alone the nodes cannot find out.
 */
function swarmOf (bootstrap, onConnection) {
  const node = address(bootstrap)
  const alone = node.host === HOST ? { host: HOST, firewalled: false } : {}
  const swarm = new Hyperswarm({ dht: new HyperDHT({ bootstrap: [node], ...alone }) })
  swarm.on('connection', connection => {
    connection.on('error', () => {})
    onConnection(connection)
  })
  return swarm
}

/**
 * Every entry of a version of a drive, read whole: path -> {sha256, size, executable, linkname, metadata}. A name
 * that is not UTF-8 is listed as `hex:` and its bytes.
 */
async function listing (drive, version) {
  const db = version === undefined ? drive.db.snapshot() : drive.db.checkout(version)
  const found = []
  try {
    for await (const { key, value } of db.createReadStream({}, { keyEncoding: RAW_NAMES })) found.push([nameOf(key), value])
  } finally {
    await db.close()
  }
  const blobs = found.some(([, value]) => value.blob) ? await drive.getBlobs() : null
  const entries = new Array(found.length)
  let next = 0
  const reader = async () => {
    while (next < found.length) {
      const at = next++
      const [name, value] = found[at]
      const { executable, linkname, blob, metadata } = value
      entries[at] = [name, { ...(blob ? await sum(blobs, blob) : { sha256: null, size: 0 }), executable, linkname, metadata }]
    }
  }
  await Promise.all(Array.from({ length: READERS }, reader))
  return Object.fromEntries(entries)
}

function nameOf (key) {
  const text = key.toString()
  return Buffer.from(text).equals(key) ? text : 'hex:' + hex(key)
}

async function sum (blobs, blob) {
  const hash = crypto.createHash('sha256')
  let size = 0
  if (blob.byteLength > 0) {
    for await (const bytes of blobs.createReadStream(blob)) {
      hash.update(bytes)
      size += bytes.byteLength
    }
  }
  return { sha256: hash.digest('hex'), size }
}

module.exports = {
  HOST, RAW_NAMES, address, converse, dial, fail, freshStore, hex, leave, listen, listing, openDrive, openStore, replicate, run, say, seeded, swarmOf, unhex, usage
}
