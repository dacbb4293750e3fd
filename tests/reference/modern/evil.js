'use strict'
// A TCP peer of one drive that lies (or, with --mode none, does not). Makes the drive if absent, as serve-drive.js does:
// the same --shape and --seed are the same drive, so that an honest peer of it can be served from another --storage.
// Prints {ready, port, key, blobsKey, length, blobsLength, mode}, then {connected: N} and, when a connection has ended,
// {disconnected: N, seconds, sent, received, requests, answers, lies}; {"status": true} on stdin prints all connections.
//
// --mode M        one of lies.js
// --core C        lie about `db`, `blobs` or `both` (default); the other core is served honestly
// --after N       number of answers on a connection and core before the first lie (default 0)
//
// The channel is written here and not left to Hypercore, because Hypercore would not lie. Its codecs are used.

const Protomux = require('protomux')
const NoiseSecretStream = require('@hyperswarm/secret-stream')
const caps = require('hypercore/lib/caps')
const { wire } = require('hypercore/lib/messages')

const { converse, hex, listen, run, say, unhex, usage } = require('./peer')
const { Drip, lies } = require('./lies')
const { open } = require('./shapes')

const PROTOCOL = 'hypercore/alpha'
const NOT_AVAILABLE = 1
const INVALID = 2
/** Wants are answered per page of this many blocks. */
const PAGE = 2097152

run(async options => {
  const lie = lies[options.mode]
  if (!options.storage || !lie) usage(`evil.js --storage DIR --mode M [--shape NAME] [--seed N] [--core db|blobs|both] [--after N] [--port N]\nmodes: ${Object.keys(lies).join(' ')}`)
  const { drive } = await open(options.storage, {
    shape: options.shape,
    seed: options.seed,
    encryptionKey: unhex(options['encryption-key'])
  })
  const blobs = (await drive.getBlobs()).core
  const cores = { db: drive.core, blobs }
  const connections = []
  const about = name => options.core === 'both' || options.core === name

  const server = await listen(Number(options.port), socket => {
    const number = connections.length + 1
    const started = Date.now()
    const counts = { requests: 0, answers: 0, lies: 0 }
    const state = () => {
      return { open: !socket.destroyed, seconds: (Date.now() - started) / 1000, sent: socket.bytesWritten, received: socket.bytesRead, ...counts }
    }
    connections.push(state)
    say({ connected: number })
    socket.on('close', () => say({ disconnected: number, ...state() }))
    if (lie.socket) return lie.socket(socket, counts)

    const raw = lie.drip ? new Drip(socket) : socket
    const stream = new NoiseSecretStream(false, raw)
    stream.on('error', () => socket.destroy())
    const mux = Protomux.from(stream)
    for (const [name, core] of Object.entries(cores)) {
      const serve = () => new Channel({ mux, core, cores, raw, counts, lie: about(name) ? lie : {}, after: Number(options.after) }).open()
      mux.pair({ protocol: PROTOCOL, id: core.discoveryKey }, serve)
    }
    if (lie.connection) stream.opened.then(opened => opened && lie.connection({ stream, mux, cores, counts }))
  })

  say({
    ready: true,
    port: server.address().port,
    key: hex(drive.key),
    discoveryKey: hex(drive.discoveryKey),
    blobsKey: hex(blobs.key),
    length: drive.core.length,
    blobsLength: blobs.length,
    mode: options.mode
  })
  await converse(async () => ({ connections: connections.map(state => state()) }))
}, {
  storage: { type: 'string' },
  shape: { type: 'string', default: 'small' },
  seed: { type: 'string', default: '1' },
  'encryption-key': { type: 'string' },
  mode: { type: 'string', default: 'none' },
  core: { type: 'string', default: 'both' },
  after: { type: 'string', default: '0' },
  port: { type: 'string', default: '0' }
})

/** One core on one connection, served from all its blocks; `lie` says where it departs from that. */
class Channel {
  constructor ({ mux, core, cores, raw, counts, lie, after }) {
    Object.assign(this, { mux, core, cores, raw, counts, lie, after })
    this.remote = { fork: 0, length: 0 }
    this.channel = null
    this.closed = false
  }

  open () {
    const on = (name, act) => ({ encoding: wire[name], onmessage: message => act && act.call(this, message) })
    const channel = this.mux.createChannel({
      protocol: PROTOCOL,
      aliases: ['hypercore'],
      id: this.core.discoveryKey,
      handshake: wire.handshake,
      messages: [on('sync', this.onSync), on('request', this.onRequest), on('cancel'), on('data'), on('noData'), on('want', this.onWant),
        on('unwant'), on('bitfield'), on('range'), on('extension')],
      onopen: () => this.onOpen(),
      onclose: () => { this.closed = true }
    })
    if (!channel) return
    this.channel = channel
    channel.open({ seeks: true, capability: caps.replicate(false, this.core.key, this.mux.stream.handshakeHash) })
  }

  send (name, message) {
    const order = ['sync', 'request', 'cancel', 'data', 'noData', 'want', 'unwant', 'bitfield', 'range', 'extension']
    return this.channel.messages[order.indexOf(name)].send(message)
  }

  /** Sends what `next()` says, [name, message], as fast as the connection takes it and until it ends. */
  flood (next) {
    const more = () => {
      if (this.closed || this.mux.stream.destroyed) return
      for (let n = 0; n < 64; n++) {
        this.counts.lies++
        if (!this.send(...next())) {
          this.mux.stream.once('drain', () => setImmediate(more))
          return
        }
      }
      setImmediate(more)
    }
    more()
  }

  onOpen () {
    if (this.lie.mute) return
    this.sync()
    const range = { drop: false, start: 0, length: this.core.length, ...(this.lie.range && this.lie.range(this.core)) }
    if (range.length > 0) this.send('range', range)
    if (this.lie.opened) this.lie.opened(this)
  }

  sync () {
    const { fork, length } = this.core
    this.send('sync', {
      fork,
      length,
      remoteLength: this.remote.fork === fork ? this.remote.length : 0,
      canUpgrade: true,
      uploading: true,
      downloading: false,
      hasManifest: this.core.core.compat === false,
      allowPush: false,
      ...(this.lie.sync && this.lie.sync(this.core))
    })
  }

  onSync ({ fork, length }) {
    if (this.lie.mute) return
    const changed = this.remote.fork !== fork || this.remote.length !== length
    this.remote = { fork, length }
    if (changed) this.sync()
  }

  onWant ({ start, length }) {
    if (this.lie.mute || start >= this.core.length) return
    if (length <= PAGE) this.send('range', { drop: false, start: 0, length: this.core.length })
  }

  async onRequest (request) {
    this.counts.requests++
    const lying = this.counts.answers >= this.after
    if (lying && this.lie.request && await this.lie.request(this, request)) {
      this.counts.lies++
      return
    }
    const answer = await this.prove(request)
    this.counts.answers++
    if (typeof answer === 'number') return this.send('noData', { request: request.id, reason: answer })
    if (lying && this.lie.data && await this.lie.data(answer, request, this)) this.counts.lies++
    this.send('data', answer)
  }

  /** The honest answer to a request: a data message, or the reason why there is none. */
  async prove (request) {
    const { core } = this
    const manifest = request.manifest && !core.core.compat ? core.manifest : null
    if (request.fork !== core.fork && !this.lie.anyFork) return NOT_AVAILABLE
    if (request.block && request.block.index >= core.length) return NOT_AVAILABLE
    try {
      const { block, hash, seek, upgrade } = await core.proof(request)
      return { request: request.id, fork: request.fork, block, hash, seek, upgrade, manifest }
    } catch {
      return INVALID
    }
  }
}
