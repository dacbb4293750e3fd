'use strict'
// Serves the drive of a directory (made if absent) over TCP. Prints {port, key, version}, then obeys
// JSON lines on stdin, answering each: {"op":"put","path":"/a","text":"…"|"hex":"…"|"size":N},
// append-many {count, prefix}, rewrite {prefix, files, from, count}, del, rmdir, mkdir, symlink {path, target}, mount {path, name},
// setxattr {path, name, text}, list, status, drop (cuts all connections), close.

const crypto = require('crypto')
const { converse, listen, openDrive, openStore, promised, run, say, usage, walk } = require('./peer')

run(async ([directory], options) => {
  if (!directory) usage('serve-drive.js DIR [--port N] [--key HEX]')
  const store = await openStore(directory)
  const drive = await openDrive(store, options.key)
  await promised(done => drive.getContent(done)) // so that it is replicated from the start
  const sockets = new Set()
  const traffic = { sent: 0, received: 0, connections: 0 }
  const server = await listen(store, Number(options.port), socket => {
    sockets.add(socket)
    traffic.connections++
    socket.on('close', () => {
      sockets.delete(socket)
      traffic.sent += socket.bytesWritten
      traffic.received += socket.bytesRead
    })
  })

  const change = start => promised(start).then(() => ({}))
  const commands = {
    put: c => change(done => drive.writeFile(c.path, body(c), { mode: c.mode }, done)),
    'append-many': async c => {
      for (let n = 0; n < c.count; n++) {
        await promised(done => drive.writeFile(`${c.prefix || '/appended'}-${n}`, `number ${n}\n`, done))
      }
      return {}
    },
    // Version n of file n % files: one line again and again, as often as n says, so that a reader
    // can tell a whole version from a torn one.
    rewrite: async c => {
      for (let n = c.from; n < c.from + c.count; n++) {
        const text = `version ${n}\n`.repeat(1 + n % 3000)
        await promised(done => drive.writeFile(`${c.prefix}/${n % c.files}`, text, done))
      }
      return {}
    },
    del: c => change(done => drive.unlink(c.path, done)),
    rmdir: c => change(done => drive.rmdir(c.path, done)),
    mkdir: c => change(done => drive.mkdir(c.path, done)),
    symlink: c => change(done => drive.symlink(c.target, c.path, done)),
    setxattr: c => change(done => drive.setMetadata(c.path, c.name, Buffer.from(c.text), done)),
    mount: async c => {
      const other = await openDrive(store.namespace(c.name))
      await promised(done => other.writeFile('/inside.txt', `inside ${c.name}\n`, done))
      await promised(done => drive.mount(c.path, other.key, done))
      return { mounted: other.key.toString('hex') }
    },
    list: async () => ({ entries: await walk(drive, true) }),
    status: async () => {
      const now = { ...traffic }
      for (const socket of sockets) {
        now.sent += socket.bytesWritten
        now.received += socket.bytesRead
      }
      return { ...now, open: sockets.size }
    },
    drop: async () => {
      for (const socket of sockets) socket.destroy()
      return {}
    },
    close: async () => ({})
  }

  say({ port: server.address().port, key: drive.key.toString('hex'), version: drive.version })
  await converse(async command => {
    const act = commands[command.op]
    if (!act) throw new Error(`unknown op ${command.op}`)
    return { ...(await act(command)), version: drive.version }
  }, async () => {
    for (const socket of sockets) socket.destroy()
    server.close()
    await drive.promises.close()
  })
}, {
  deadline: { type: 'string', default: '900' },
  port: { type: 'string', default: '0' },
  key: { type: 'string' }
})

function body (command) {
  if (command.hex !== undefined) return Buffer.from(command.hex, 'hex')
  if (command.size === undefined) return Buffer.from(command.text || '')
  const key = crypto.createHash('sha256').update(command.path).digest()
  return crypto.createCipheriv('aes-256-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(command.size))
}
