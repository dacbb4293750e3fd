'use strict'
// The reference with its own discovery, to be run where it reaches other machines by addresses other than
// 127.0.0.1, from which it accepts no connections. One of
//   bootstrap --port N        a DHT node for the others to begin with; prints {port}
//   serve DIR                 announces the drive of a directory (made if absent); prints {key, version}
//                             and obeys {"path", "text"}, a file to write, and {"path", "key"}, a drive to
//                             mount there, on stdin
//   read KEY                  finds a drive by its key alone; prints {version, entries, connections}
// with --bootstrap HOST:PORT; without, only the local network is used.

const ram = require('random-access-memory')
const dht = require('@hyperswarm/dht')
const Networker = require('@corestore/networker')
const crypto = require('hypercore-crypto')

const { converse, openDrive, openStore, promised, run, said, say, usage, walk } = require('./peer')

const modes = { bootstrap, serve, read }

run(async ([mode, what], options) => {
  if (!modes[mode] || (mode !== 'bootstrap' && !what)) {
    usage('find-drive.js bootstrap --port N | serve DIR | read KEY [--bootstrap HOST:PORT]…')
  }
  await modes[mode](what, options)
}, {
  deadline: { type: 'string', default: '120' },
  port: { type: 'string', default: '49737' },
  bootstrap: { type: 'string', multiple: true }
})

async function bootstrap (_, options) {
  const node = dht({ ephemeral: false, bootstrap: [] })
  node.on('error', error => process.stderr.write(error.message + '\n'))
  await new Promise((resolve, reject) => node.once('listening', resolve).listen(Number(options.port)))
  say({ port: node.address().port })
  await converse(async () => ({}), async () => node.destroy())
}

async function network (store, options) {
  const networker = new Networker(store, { bootstrap: options.bootstrap || false })
  await networker.listen()
  return networker
}

async function serve (directory, options) {
  const store = await openStore(directory)
  const drive = await openDrive(store)
  await promised(done => drive.getContent(done)) // so that it is replicated from the start
  const networker = await network(store, options)
  await networker.configure(drive.discoveryKey, { announce: true, lookup: true, flush: true })
  say({ key: drive.key.toString('hex'), version: drive.version })
  await converse(async command => {
    if (command.key) {
      const key = Buffer.from(command.key, 'hex')
      await networker.configure(crypto.discoveryKey(key), { announce: false, lookup: true })
      await promised(done => drive.mount(command.path, key, done))
    } else {
      await promised(done => drive.writeFile(command.path, command.text, done))
    }
    return { version: drive.version }
  }, () => networker.close())
}

async function read (key, options) {
  const store = await openStore(ram)
  const drive = await openDrive(store, key)
  const networker = await network(store, options)
  const connections = []
  networker.on('peer-add', peer => connections.push(peer.type))
  // It looks once and then again after minutes: a peer that announces a little later is only found then.
  await networker.configure(drive.discoveryKey, { announce: false, lookup: true })
  if (drive.metadata.length === 0) await promised(done => drive.metadata.update({ ifAvailable: false }, done))
  say({ version: drive.version, entries: await walk(drive, true), connections })
  await said()
  process.exit(0)
}
