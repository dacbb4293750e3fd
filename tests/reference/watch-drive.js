'use strict'
// A reader that stays: replicates a drive live into memory and obeys JSON lines on stdin, answering
// each: {"op":"connect","port":N} (drops the connection before), walk {version} (waits for that
// version, then lists with hashes), until {path, sha256} (waits for that content), close.

const ram = require('random-access-memory')
const { converse, dial, hashFile, openDrive, openStore, promised, run, say, usage, walk } = require('./peer')

run(async ([key]) => {
  if (!key) usage('watch-drive.js KEY [--deadline S]')
  const store = await openStore(ram)
  const drive = await openDrive(store, key)
  const metadata = drive.metadata
  const longer = length => promised(done => metadata.update({ minLength: length, ifAvailable: false }, done))
  let socket = null

  const commands = {
    connect: async ({ port, host }) => {
      if (socket) socket.destroy()
      socket = await dial(store, port, host)
      return {}
    },
    walk: async ({ version }) => {
      if (metadata.length < version) await longer(version)
      return { entries: await walk(drive, true), version: metadata.length }
    },
    until: async ({ path, sha256 }) => {
      for (;;) {
        const seen = metadata.length
        const found = await hashFile(drive, path).catch(() => null)
        if (found === sha256) return {}
        if (metadata.length === seen) await longer(seen + 1)
      }
    }
  }

  say({ ready: true })
  await converse(async command => {
    const act = commands[command.op]
    if (!act) throw new Error(`unknown op ${command.op}`)
    return act(command)
  }, async () => { if (socket) socket.destroy() })
}, {
  deadline: { type: 'string', default: '900' }
})
