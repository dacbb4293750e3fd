'use strict'
// hyperspace 3 and hyperdrive-daemon 1, unmodified: whole daemons with their own networking, used by their
// own clients. To be run where they reach other machines by addresses other than 127.0.0.1. One of
//   hyperspace serve DIR | hyperspace read DIR KEY
//   daemon serve DIR     | daemon read DIR KEY
// with --bootstrap HOST:PORT. `serve` makes a drive, announces it, prints {key}, and obeys
// {"path", "text"}, a file to write, on stdin; `read` finds a drive by its key and prints
// {names, text}, text being that of --path.

const path = require('path')

const { converse, promised, run, said, say, usage } = require('./peer')

const kinds = { hyperspace, daemon }

run(async ([kind, mode, directory, key], options) => {
  if (!kinds[kind] || !directory || !(mode === 'serve' || (mode === 'read' && key))) {
    usage('find-hyperspace.js hyperspace|daemon serve DIR | read DIR KEY [--bootstrap HOST:PORT]… [--path P]')
  }
  const drive = await kinds[kind](directory, key, options.bootstrap, mode === 'serve')
  if (mode === 'serve') {
    say({ key: drive.key })
    await converse(command => drive.write(command.path, command.text), async () => {})
  } else {
    say({ names: await drive.names(), text: await drive.read(options.path) })
    await said()
    process.exit(0)
  }
}, {
  deadline: { type: 'string', default: '120' },
  path: { type: 'string', default: '/hello.txt' },
  bootstrap: { type: 'string', multiple: true }
})

/** hyperspace is a store of cores behind a socket; the drive is made of them in its client. */
async function hyperspace (directory, key, nodes, announce) {
  const { Client, Server } = require('hyperspace')
  const host = `hypermount-test-${process.pid}`
  const server = new Server({ storage: directory, host, network: { bootstrap: nodes || false } })
  await server.open()
  const client = new Client({ host })
  await client.ready()
  const drive = require('hyperdrive')(client.corestore(), key ? Buffer.from(key, 'hex') : null)
  await drive.promises.ready()
  await client.network.configure(drive.discoveryKey, { announce, lookup: true, flush: true })
  return {
    key: drive.key.toString('hex'),
    write: (name, text) => drive.promises.writeFile(name, text),
    names: () => drive.promises.readdir('/'),
    read: async name => (await drive.promises.readFile(name)).toString()
  }
}

async function daemon (directory, key, nodes, announce) {
  const Daemon = require('hyperdrive-daemon')
  const { HyperdriveClient } = require('hyperdrive-daemon-client')
  const port = 20000 + process.pid % 20000
  const server = new Daemon({ storage: path.resolve(directory), port, bootstrap: nodes || false, noDebug: true })
  await server.start()
  const { endpoint, token } = server.metadata
  const client = new HyperdriveClient({ endpoint, token, connectionTimeout: 10000 })
  await promised(done => client.ready(done))
  const drive = await client.drive.get({ key: key ? Buffer.from(key, 'hex') : null })
  await drive.configureNetwork({ announce, lookup: true })
  return {
    key: drive.key.toString('hex'),
    write: (name, text) => drive.writeFile(name, text),
    names: async () => (await drive.readdir('/')).map(entry => entry.name || entry),
    read: async name => (await drive.readFile(name)).toString()
  }
}
