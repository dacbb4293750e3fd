// Prints tests/vectors/hyperdht.json: packets and values of the HyperDHT, written by npm hyperdht and
// dht-rpc themselves.
const root = __dirname + '/node_modules/'
const hyper = root + 'hyperdht/'
const c = require(root + 'compact-encoding')
const b4a = require(root + 'b4a')
const m = require(hyper + 'lib/messages')
const { NS, COMMANDS } = require(hyper + 'lib/constants')
const Persistent = require(hyper + 'lib/persistent')
const IO = require(hyper + 'node_modules/dht-rpc/lib/io')
const peer = require(hyper + 'node_modules/dht-rpc/lib/peer')
const { createKeyPair, hash } = require(hyper + 'lib/crypto')
const hex = (b) => b4a.toString(b, 'hex')
const fill = (n, byte) => b4a.alloc(n, byte)

const TO = { host: '10.1.2.3', port: 49737 }
const OTHER = { host: '192.0.2.7', port: 258 }
const THIRD = { host: '8.8.8.8', port: 65535 }

// The sockets of an IO replaced by ones that write down what is sent.
function io(ephemeral) {
  const sent = []
  const socket = { trySend: (buffer, port, host) => sent.push({ buffer: b4a.from(buffer), port, host }) }
  const table = { id: peer.id(TO.host, TO.port), closest: () => [OTHER, THIRD] }
  const fake = { watchNetworkInterfaces: () => ({ destroy() {} }) }
  const one = new IO(table, fake, { firewalled: false, onrequest() {} })
  one.serverSocket = socket
  one.clientSocket = { trySend: socket.trySend }
  one.ephemeral = ephemeral
  one._secrets = [fill(32, 1), fill(32, 2)]
  return { one, sent, socket }
}

const packets = []
function request(what, ephemeral, tid, internal, command, fields) {
  const { one, sent } = io(ephemeral)
  one._tid = tid
  const req = one.createRequest({ id: null, ...TO }, fields.token || null, internal, command, fields.target || null, fields.value || null)
  req.send(true)
  clearTimeout(req._timeout)
  packets.push({ what, encoded: hex(sent[0].buffer) })
}
request('ping', true, 7, true, 0, {})
request('ping of a node that stays', false, 7, true, 0, {})
request('ping to another socket', true, 300, true, 1, { value: b4a.from([0x49, 0xc2]) })
request('find node', true, 65535, true, 2, { target: fill(32, 9) })
request('down hint', true, 8, true, 3, { value: b4a.from([192, 0, 2, 7, 2, 1]) })
request('lookup', true, 9, false, COMMANDS.LOOKUP, { target: fill(32, 9) })
request('find peer', true, 9, false, COMMANDS.FIND_PEER, { target: fill(32, 9) })
request('announce', false, 10, false, COMMANDS.ANNOUNCE, { target: fill(32, 9), token: fill(32, 5), value: b4a.from('value') })
request('unannounce', true, 10, false, COMMANDS.UNANNOUNCE, { target: fill(32, 9), token: fill(32, 5), value: b4a.from('value') })
request('handshake', true, 11, false, COMMANDS.PEER_HANDSHAKE, { target: fill(32, 9), value: fill(300, 3) })
request('an unknown command', true, 11, false, 1000, {})

// What an IO answers to a request that came in.
function response(what, ephemeral, asked, answer) {
  const { one, sent, socket } = io(ephemeral)
  one.onrequest = (req) => answer(req)
  const { one: asker, sent: out } = io(true)
  asker._tid = 513
  const req = asker.createRequest({ id: null, ...TO }, null, asked.internal, asked.command, asked.target || null, asked.value || null)
  req.send(true)
  clearTimeout(req._timeout)
  one.onmessage(socket, out[0].buffer, { host: OTHER.host, port: OTHER.port })
  packets.push({ what, encoded: hex(sent[0].buffer) })
}
response('pong', true, { internal: true, command: 0 }, (r) => r.sendReply(0, null, false, false))
response('nodes', false, { internal: true, command: 2, target: fill(32, 9) }, (r) => r.sendReply(0, null, false, true))
response('value and token', false, { internal: false, command: 3, target: fill(32, 9) }, (r) => r.reply(fill(253, 4)))
response('unknown command', true, { internal: false, command: 99, target: fill(32, 9) }, (r) => r.sendReply(1, null, false, true))
response('invalid token', false, { internal: false, command: 4 }, (r) => r.error(2, { token: true }))

const values = []
const value = (what, encoding, message) => values.push({ what, encoded: hex(c.encode(encoding, message)) })
for (const [name, mode] of [['from client', 0], ['from server', 1], ['from relay', 2], ['from second relay', 3], ['reply', 4]]) {
  value('handshake ' + name, m.handshake, {
    mode, noise: fill(5, 7),
    peerAddress: mode ? OTHER : null,
    relayAddress: mode === 3 ? THIRD : null
  })
  value('holepunch ' + name, m.holepunch, { mode, id: 300, payload: fill(4, 8), peerAddress: mode === 4 ? null : OTHER })
}
value('hello of a client', m.noisePayload, {
  error: 0, firewall: 0, holepunch: null, addresses4: [TO, OTHER], addresses6: [],
  udx: { reusableSocket: false, id: 0x12345678, seq: 0 }, secretStream: {}, relayThrough: null
})
value('hello with everything', m.noisePayload, {
  error: 3, firewall: 2,
  holepunch: { id: 4, relays: [{ relayAddress: OTHER, peerAddress: TO }, { relayAddress: THIRD, peerAddress: TO }] },
  addresses4: [TO], addresses6: [{ host: '2001:db8:0:0:0:0:0:1', port: 258 }],
  udx: { reusableSocket: true, id: 7, seq: 9 }, secretStream: {},
  relayThrough: { publicKey: fill(32, 1), token: fill(32, 2) }, relayAddresses: [THIRD]
})
value('hello with nothing', m.noisePayload, { error: 1, firewall: 3 })
value('round with nothing', m.holepunchPayload, { error: 0, firewall: 0, round: 0, connected: false, punching: false, addresses: null, remoteAddress: null, token: null, remoteToken: null })
value('round with everything', m.holepunchPayload, { error: 1, firewall: 3, round: 2, connected: true, punching: true, addresses: [TO, OTHER], remoteAddress: THIRD, token: fill(32, 1), remoteToken: fill(32, 2) })
value('round that punches', m.holepunchPayload, { error: 0, firewall: 2, round: 1, connected: false, punching: true, addresses: [TO], remoteAddress: null, token: fill(32, 1), remoteToken: null })

const keys = createKeyPair(fill(32, 6))
const record = { publicKey: keys.publicKey, relayAddresses: [OTHER, THIRD] }
value('peer', m.peer, record)
value('peer without relays', m.peer, { publicKey: fill(32, 4), relayAddresses: [] })
value('lookup reply', m.lookupRawReply, { peers: [c.encode(m.peer, record), c.encode(m.peer, { publicKey: fill(32, 4), relayAddresses: [] })], bump: 0 })
value('lookup reply with a bump', m.lookupRawReply, { peers: [], bump: 300 })
value('refresh', m.announce, { peer: null, refresh: fill(32, 8), signature: null, bump: 0 })

const target = hash(keys.publicKey)
const [token, id] = [fill(32, 5), peer.id(TO.host, TO.port)]
const signed = {}
for (const [what, sign, ann] of [
  ['announce', Persistent.signAnnounce, { peer: record, refresh: null, bump: 0 }],
  ['announce with refresh', Persistent.signAnnounce, { peer: record, refresh: fill(32, 8), bump: 1000 }],
  ['unannounce', Persistent.signUnannounce, { peer: { publicKey: keys.publicKey, relayAddresses: [] }, refresh: null, bump: 0 }]
]) {
  ann.signature = sign(target, token, id, ann, keys)
  value(what, m.announce, ann)
}

const vectors = {
  source: 'npm hyperdht ' + require(hyper + 'package.json').version + ', dht-rpc ' + require(hyper + 'node_modules/dht-rpc/package.json').version,
  packets,
  values,
  namespaces: {
    announce: hex(NS.ANNOUNCE), unannounce: hex(NS.UNANNOUNCE),
    handshake: hex(NS.PEER_HANDSHAKE), holepunch: hex(NS.PEER_HOLEPUNCH)
  },
  signed: { seed: hex(fill(32, 6)), publicKey: hex(keys.publicKey), target: hex(target), token: hex(token), id: hex(id) },
  ids: [TO, OTHER, THIRD].map((a) => ({ address: a.host + ':' + a.port, id: hex(peer.id(a.host, a.port)) }))
}
console.log(JSON.stringify(vectors, null, 1))
process.exit(0)
