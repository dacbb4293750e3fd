'use strict'
// Holds the reference's lock on one core of a store (the flock on its `bitfield`, made if absent)
// until stdin ends. Prints {locked, file}; `locked` is false when another process holds it.

const fs = require('fs')
const path = require('path')

const fdLock = require('fd-lock')
const crypto = require('hypercore-crypto')

const { converse, run, say, usage } = require('./peer')

run(async ([directory, key]) => {
  if (!directory || !key) usage('lock.js DIR KEY')
  const id = crypto.discoveryKey(Buffer.from(key, 'hex')).toString('hex')
  const folder = path.join(directory, id.slice(0, 2), id.slice(2, 4), id)
  fs.mkdirSync(folder, { recursive: true })
  const file = path.join(folder, 'bitfield')
  const fd = fs.openSync(file, 'a+')
  say({ locked: Boolean(fdLock(fd)), file })
  await converse(async () => ({}), async () => {
    fdLock.unlock(fd)
    fs.closeSync(fd)
  })
})
