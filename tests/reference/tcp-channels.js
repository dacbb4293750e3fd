'use strict'
// Channels of npm protomux on a secret stream over plain TCP. One of
//   serve           listens; prints {port}
//   dial PORT       connects
// Each side opens the channel "hypermount-test/echo" with the id "one" and the handshake "reference". A message of
// kind 0 is sent back as kind 1. When the channel is open, a batch of COUNT messages of kind 2 is sent, the
// number as payload, and then one of kind 3 with LONG bytes. Prints
//   {open: {handshake, hash, remote}}      when the channel is open
//   {refused}                              when the remote has refused the channel "hypermount-test/unknown"
//   {closed}                               when the connection is over

const net = require('net')
const SecretStream = require('@hyperswarm/secret-stream')
const Protomux = require('protomux')
const c = require('compact-encoding')

const { converse, run, say, usage } = require('./peer')

const COUNT = 1000
const LONG = 8 * 1024 * 1024

run(async ([mode, port]) => {
  if (mode === 'serve') {
    const server = net.createServer(socket => talk(socket, false))
    await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
    say({ port: server.address().port })
  } else if (mode === 'dial' && port) {
    talk(net.connect(Number(port), '127.0.0.1'), true)
  } else {
    usage('tcp-channels.js serve | dial PORT')
  }
  await converse(async () => ({}), async () => process.exit(0))
})

function talk (socket, isInitiator) {
  const stream = new SecretStream(isInitiator, socket)
  stream.on('error', () => {}) // a peer that tries another protocol first
  stream.on('handshake', () => {
    stream.on('close', () => say({ closed: true }))
  })
  const mux = Protomux.from(stream)
  const hex = buffer => buffer.toString('hex')
  const channel = mux.createChannel({
    protocol: 'hypermount-test/echo',
    id: Buffer.from('one'),
    handshake: c.string,
    messages: [
      { encoding: c.raw, onmessage: bytes => channel.messages[1].send(bytes) },
      { encoding: c.raw, onmessage: () => {} },
      { encoding: c.uint, onmessage: () => {} },
      { encoding: c.raw, onmessage: () => {} }
    ],
    onopen: handshake => {
      say({ open: { handshake, hash: hex(stream.handshakeHash), remote: hex(stream.remotePublicKey) } })
      mux.cork()
      for (let n = 0; n < COUNT; n++) channel.messages[2].send(n)
      mux.uncork()
      channel.messages[3].send(Buffer.alloc(LONG, 7))
    }
  })
  channel.open('reference')
  const unknown = mux.createChannel({
    protocol: 'hypermount-test/unknown',
    onclose: () => { if (!stream.destroying) say({ refused: true }) }
  })
  unknown.open()
}
