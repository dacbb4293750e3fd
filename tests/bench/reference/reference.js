'use strict'
// The reference implementation as the benchmark runs it: importer, server and FUSE mount. It uses
// the published packages as they are, with their defaults; nothing here makes them faster or slower.
//
//   node reference.js import STORE DIR              copy DIR into a new drive, print its key
//   node reference.js serve STORE KEY               answer peers; the first line is HOST:PORT
//   node reference.js mount STORE KEY PEER MNT      mount a remote drive, print "mounted"
//   node reference.js mount-own STORE MNT           mount a new writable drive, print "mounted"
//
// `serve` and the mounts end on SIGTERM and SIGINT.

const fs = require('fs')
const net = require('net')
const path = require('path')
const { promisify } = require('util')
const { pipeline } = require('stream/promises')
const Corestore = require('corestore')
const hyperdrive = require('hyperdrive')

async function openStore (directory) {
  fs.mkdirSync(directory, { recursive: true })
  const store = new Corestore(directory)
  await store.ready()
  return store
}

async function openDrive (store, key) {
  const drive = hyperdrive(store, key && Buffer.from(key, 'hex'))
  await drive.promises.ready()
  return drive
}

async function importTree (directory, source) {
  const drive = await openDrive(await openStore(directory))
  for (const entry of entriesOf(source)) {
    const name = '/' + entry
    const stat = fs.statSync(path.join(source, entry))
    if (stat.isDirectory()) {
      await drive.promises.mkdir(name)
    } else {
      await pipeline(fs.createReadStream(path.join(source, entry)), drive.createWriteStream(name))
    }
  }
  console.log(drive.key.toString('hex'))
  await drive.promises.close()
}

function * entriesOf (root, prefix = '') {
  const entries = fs.readdirSync(path.join(root, prefix), { withFileTypes: true })
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const name = path.posix.join(prefix, entry.name)
    yield name
    if (entry.isDirectory()) yield * entriesOf(root, name)
  }
}

async function serve (directory, key) {
  const store = await openStore(directory)
  const drive = await openDrive(store, key)
  const server = net.createServer({ noDelay: true }, socket => {
    join(socket, drive.replicate(false, { live: true }))
  })
  server.listen(0, '127.0.0.1', () => console.log('127.0.0.1:' + server.address().port))
  process.once('SIGTERM', () => process.exit(0)).once('SIGINT', () => process.exit(0))
}

function join (socket, stream) {
  socket.on('error', () => stream.destroy())
  stream.on('error', () => socket.destroy())
  socket.pipe(stream).pipe(socket)
}

async function mountRemote (directory, key, peer, mountpoint) {
  const store = await openStore(directory)
  const drive = hyperdrive(store, Buffer.from(key, 'hex'))
  const [host, port] = peer.split(':')
  const socket = net.connect({ host, port: Number(port), noDelay: true })
  join(socket, drive.replicate(true, { live: true }))
  await drive.promises.ready()
  // While the length is unknown, every look-up fails with ENOENT.
  while (drive.metadata.length === 0) await promisify(cb => drive.metadata.update(cb))()
  await mount(drive, mountpoint)
}

async function mountOwn (directory, mountpoint) {
  await mount(await openDrive(await openStore(directory)), mountpoint)
}

async function mount (drive, mountpoint) {
  // Loaded late: the importer and the server need no FUSE library.
  const { HyperdriveFuse } = require('hyperdrive-fuse')
  const fuse = new HyperdriveFuse(drive, mountpoint)
  await fuse.mount()
  const end = () => fuse.unmount().then(() => process.exit(0), () => process.exit(1))
  process.once('SIGTERM', end).once('SIGINT', end)
  console.log('mounted')
}

const commands = { import: importTree, serve, mount: mountRemote, 'mount-own': mountOwn }
const [command, ...operands] = process.argv.slice(2)
if (!commands[command]) {
  console.error('usage: see the head of this file')
  process.exit(2)
}
commands[command](...operands).catch(error => {
  console.error(error)
  process.exit(1)
})
