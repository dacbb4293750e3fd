'use strict'
// A HyperDHT of its own on localhost: a bootstrap node and (--nodes, 3) others that store what is announced. Prints
// {ready, host, port, bootstrap: "HOST:PORT"} when they know each other; ends with stdin.

const createTestnet = require('hyperdht/testnet')
const { HOST, converse, run, say } = require('./peer')

run(async options => {
  const network = await createTestnet(1 + Number(options.nodes), { host: HOST, port: Number(options.port) })
  const { port } = network.bootstrap[0]
  say({ ready: true, host: HOST, port, bootstrap: `${HOST}:${port}` })
  await converse(async () => ({ nodes: network.nodes.length }), () => network.destroy())
}, {
  nodes: { type: 'string', default: '3' },
  port: { type: 'string', default: '0' }
})
