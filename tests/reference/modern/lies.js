'use strict'
// What evil.js can do wrong, by the name of its mode. A lie has any of these parts:
//   socket(socket, counts)          takes the place of everything: no handshake is made
//   drip                            the connection lets one byte a second through, once a request has arrived
//   connection({stream, mux, cores, counts})   called when the handshake is done
//   mute                            the channel opens and says nothing
//   sync(core), range(core)         fields that replace those of the announcements
//   anyFork                         answers requests for a fork that is not the core's as if it were
//   opened(channel)                 called after the announcements
//   request(channel, request)       true if it took care of the request, or left it unanswered
//   data(answer, request, channel)  changes an honest answer; true if it did

const crypto = require('crypto')
const c = require('compact-encoding')
const { Duplex } = require('streamx')
const { Extension } = require('hyperbee/lib/messages')
const { wire } = require('hypercore/lib/messages')

const MIB = 1024 * 1024
/** Longest message of a secret stream, less what sealing adds. */
const LONGEST = 16 * MIB - 1 - 17
/** Largest number that compact-encoding carries in JavaScript. */
const HUGE = Number.MAX_SAFE_INTEGER
const NOT_AVAILABLE = 1

const random = limit => Math.floor(Math.random() * limit)

/** A copy with the lowest bit of one byte changed. */
function flipped (bytes, at = 0) {
  const copy = Buffer.from(bytes)
  if (copy.length > 0) copy[at % copy.length] ^= 1
  return copy
}

/** All lists of nodes in an answer that are not empty. */
function nodeLists (answer) {
  const { block, hash, seek, upgrade } = answer
  return [block && block.nodes, hash && hash.nodes, seek && seek.nodes, upgrade && upgrade.nodes, upgrade && upgrade.additionalNodes]
    .filter(nodes => nodes && nodes.length > 0)
}

/** A data message with a block of `size` bytes that was not requested. */
function unasked (core, request, size = 1000) {
  const nodes = Array.from({ length: 3 }, () => ({ index: random(2 * core.length), size: random(70000), hash: crypto.randomBytes(32) }))
  const block = { index: random(core.length), value: crypto.randomBytes(size), nodes }
  return { request, fork: core.fork, block, hash: null, seek: null, upgrade: null, manifest: null }
}

/** Writes `frames()` to the stream as fast as it takes them. */
function pump (stream, counts, frames) {
  const more = () => {
    while (!stream.destroyed && !stream.destroying) {
      counts.lies++
      if (stream.write(frames()) === false) return stream.once('drain', () => setImmediate(more))
    }
  }
  more()
}

const lies = {
  // Tells the truth.
  none: {},

  // One bit of each block is changed; its proof is the right one.
  'wrong-block': {
    data (answer) {
      if (!answer.block) return false
      answer.block.value = answer.block.value.byteLength > 0 ? flipped(answer.block.value) : Buffer.from('not empty')
      return true
    }
  },

  // The nodes belong to another part of the tree: the lists are reversed, or lack their last node, or have one too many.
  'wrong-proof': {
    data (answer) {
      const [nodes] = nodeLists(answer)
      if (nodes && nodes.length > 1) nodes.reverse()
      else if (nodes) nodes.pop()
      else if (answer.block) answer.block.nodes = [{ index: 2 * answer.block.index + 2, size: 1, hash: crypto.randomBytes(32) }]
      return true
    }
  },

  // One bit of one hash of the proof is changed.
  'wrong-hash': {
    data (answer) {
      const lists = nodeLists(answer)
      if (lists.length === 0) return false
      const node = lists[0][lists[0].length - 1]
      node.hash = flipped(node.hash)
      return true
    }
  },

  // One size in the proof is changed: to one that wraps 64 bits with others, or by one.
  'wrong-size': {
    data (answer) {
      const lists = nodeLists(answer)
      if (lists.length === 0) return false
      const node = lists[0][lists[0].length - 1]
      node.size = random(2) ? HUGE : node.size + 1
      return true
    }
  },

  // One bit of the signature of each upgrade is changed, in the second half of it, where the scalar is.
  'wrong-signature': {
    data (answer) {
      if (!answer.upgrade) return false
      answer.upgrade.signature = flipped(answer.upgrade.signature, 40)
      return true
    }
  },

  // The manifest names another public key, and does not lead to the key of the core.
  'wrong-manifest': {
    data (answer) {
      if (!answer.manifest) return false
      const signers = answer.manifest.signers.map(signer => ({ ...signer, publicKey: flipped(signer.publicKey) }))
      answer.manifest = { ...answer.manifest, signers }
      return true
    }
  },

  // Says that it has the manifest, and never sends it.
  'no-manifest': {
    data (answer) {
      if (!answer.manifest) return false
      answer.manifest = null
      return true
    }
  },

  // Announces the same history under a fork of its own, for which there is no signature.
  'wrong-fork': { sync: core => ({ fork: core.fork + 1 }), anyFork: true, data: () => true },

  // Announces 1,000,000 blocks more than there are, and answers requests for them with what there is.
  'longer-length': {
    sync: core => ({ length: core.length + 1e6 }),
    range: core => ({ length: core.length + 1e6 }),
    async request (channel, request) {
      const { core } = channel
      if (!request.upgrade || request.upgrade.start + request.upgrade.length <= core.length) return false
      if (request.upgrade.start >= core.length) {
        channel.send('noData', { request: request.id, reason: NOT_AVAILABLE })
        return true
      }
      const answer = await channel.prove({ ...request, upgrade: { start: request.upgrade.start, length: core.length - request.upgrade.start } })
      if (typeof answer === 'number') channel.send('noData', { request: request.id, reason: answer })
      else channel.send('data', answer)
      return true
    }
  },

  // Syncs without end, each with another length and fork.
  'endless-sync': {
    opened (channel) {
      const { core } = channel
      channel.flood(() => ['sync', {
        fork: core.fork + random(3),
        length: core.length + random(1000),
        remoteLength: random(core.length + 1),
        canUpgrade: random(2) === 1,
        uploading: true,
        downloading: true,
        hasManifest: true,
        allowPush: true
      }])
    }
  },

  // Announces ranges at random places up to 2^53 without end, so that a sparse bitfield grows with each.
  'flood-range': {
    opened (channel) {
      channel.flood(() => ['range', { drop: random(4) === 0, start: random(HUGE), length: 1 + random(HUGE / 4) }])
    }
  },

  // Sends pages of a bitfield at random places without end.
  'flood-bitfield': {
    opened (channel) {
      channel.flood(() => ['bitfield', { start: 32768 * random(2 ** 38), bitfield: new Uint32Array(1024).fill(0x55555555) }])
    }
  },

  // Asks for the presence of random ranges without end, aligned or not.
  'flood-want': {
    opened (channel) {
      channel.flood(() => [random(8) === 0 ? 'unwant' : 'want', { start: random(2) ? 2097152 * random(2 ** 30) : random(HUGE), length: 2 ** random(53), any: random(2) === 1 }])
    }
  },

  // Requests blocks, hashes, seeks and upgrades that nobody could have, without end, and reads the answers.
  'flood-request': {
    opened (channel) {
      channel.flood(() => ['request', {
        id: 1 + random(HUGE),
        fork: 0,
        block: random(2) ? { index: random(HUGE), nodes: random(100) } : null,
        hash: random(4) === 0 ? { index: random(HUGE), nodes: random(1000) } : null,
        seek: random(4) === 0 ? { bytes: random(HUGE), padding: random(HUGE) } : null,
        upgrade: random(4) === 0 ? { start: random(HUGE), length: random(HUGE) } : null,
        manifest: random(2) === 1,
        priority: 0
      }])
    }
  },

  // From the first request on, one byte a second.
  drip: {
    drip: true,
    request (channel) {
      channel.raw.slow()
      return false
    }
  },

  // Announces everything, takes requests and never answers one.
  'stall-data': { request: () => true },

  // Accepts the TCP connection and never sends a byte.
  silent: { socket () {} },

  // Makes the handshake, opens the channels and says nothing on them.
  mute: { mute: true },

  // Announces a frame of 16 MiB before the handshake, and sends bytes without end.
  'huge-frame': {
    socket (socket, counts) {
      socket.resume()
      socket.write(Buffer.from('ffffff', 'hex'))
      pump(socket, counts, () => Buffer.alloc(64 * 1024))
    }
  },

  // After the handshake, sealed messages of nearly 16 MiB without end: data with one large block that was not requested.
  'huge-message': {
    opened (channel) {
      channel.flood(() => ['data', unasked(channel.core, 0, LONGEST - 1000)])
    }
  },

  // Batches of protomux of 8 MiB, each with two million messages for channel 1, the first ones before it is open.
  'batch-bomb': {
    connection ({ stream, counts }) {
      const item = Buffer.from([3, 8, 2, 0]) // of 3 bytes: range of length 1 at 0
      const batch = Buffer.concat([Buffer.from([0, 0, 1]), Buffer.alloc(8 * MIB, item)])
      pump(stream, counts, () => batch)
    }
  },

  // Batches inside of batches, as deep as a frame is long.
  'nested-batch': {
    connection ({ stream, counts }) {
      const parts = []
      let inner = 0
      while (inner < MIB) {
        // From the inside out: batch (type 0), channel 0, length of the one item.
        const head = Buffer.concat([Buffer.from([0, 0]), c.encode(c.uint, inner)])
        parts.push(head)
        inner += head.length
      }
      const frame = Buffer.concat([Buffer.from([0]), ...parts.reverse()])
      pump(stream, counts, () => frame)
    }
  },

  // Opens channels for random cores without end, and waits for no answer.
  'open-flood': {
    connection ({ stream, mux, counts }) {
      const more = () => {
        while (!stream.destroyed && !stream.destroying) {
          counts.lies++
          const channel = mux.createChannel({ protocol: 'hypercore/alpha', id: crypto.randomBytes(32), handshake: wire.handshake })
          if (channel) channel.open({ seeks: true, capability: crypto.randomBytes(32) })
          if (!mux.drained) return stream.once('drain', () => setImmediate(more))
        }
      }
      more()
    }
  },

  // Messages of the hyperbee extension without end: questions that make the peer walk, lists of blocks, names that are unknown.
  'extension-storm': {
    opened (channel) {
      const { core } = channel
      const kinds = [
        () => ({ get: { version: 1 + random(core.length), key: crypto.randomBytes(20) } }),
        () => ({ iterator: { version: core.length, gte: Buffer.alloc(0), limit: 0, reverse: random(2) === 1, checkpoint: [] } }),
        () => ({ iterator: { version: random(HUGE), gt: crypto.randomBytes(1000), limit: HUGE, reverse: false, checkpoint: Array.from({ length: 300 }, () => random(HUGE)) } }),
        () => ({ cache: { start: 0, end: HUGE, blocks: Array.from({ length: 10000 }, () => random(HUGE)) } })
      ]
      channel.flood(() => {
        if (random(10) === 0) return ['extension', { name: crypto.randomBytes(500).toString('hex'), message: crypto.randomBytes(100) }]
        if (random(10) === 0) return ['extension', { name: 'hyperbee', message: crypto.randomBytes(100) }]
        return ['extension', { name: 'hyperbee', message: Extension.encode(kinds[random(kinds.length)]()) }]
      })
    }
  },

  // Announces everything, and has nothing when asked.
  'no-data': {
    request (channel, request) {
      channel.send('noData', { request: request.id, reason: NOT_AVAILABLE })
      return true
    }
  },

  // Besides honest answers, blocks that were not requested without end, as pushes and under ids that were never given.
  'data-unasked': {
    opened (channel) {
      channel.flood(() => ['data', unasked(channel.core, random(2) ? 0 : 1 + random(2 ** 32))])
    }
  }
}

/** A socket that passes everything on at first, and one byte a second once it is slow. */
class Drip extends Duplex {
  constructor (socket) {
    super()
    this.socket = socket
    this.isSlow = false
    this.waiting = []
    socket.on('data', bytes => this.push(bytes))
    socket.on('end', () => this.push(null))
    socket.on('close', () => this.destroy())
  }

  slow () {
    if (this.isSlow) return
    this.isSlow = true
    const timer = setInterval(() => {
      if (this.waiting.length === 0) return
      const [first] = this.waiting
      this.socket.write(first.subarray(0, 1))
      if (first.length > 1) this.waiting[0] = first.subarray(1)
      else this.waiting.shift()
    }, 1000)
    this.socket.on('close', () => clearInterval(timer))
  }

  _write (bytes, done) {
    if (this.isSlow) this.waiting.push(Buffer.from(bytes))
    else this.socket.write(bytes)
    done(null)
  }

  _destroy (done) {
    this.socket.destroy()
    done(null)
  }
}

module.exports = { Drip, lies }
