'use strict'
// Makes a drive in an empty directory, the same content for the same arguments, and (--plain) the
// same tree as an ordinary directory for `diff -r`. Prints {key, version, entries}.

const crypto = require('crypto')
const fs = require('fs')
const path = require('path')
const { spawnSync } = require('child_process')
const { openDrive, openStore, promised, run, said, say, usage, walk } = require('./peer')

const CHUNK = 64 * 1024
const GIB = 1024 ** 3
/** Size of the --huge file: more than 2^31, so that 32-bit arithmetic shows. */
const HUGE = 3 * GIB

run(async ([directory], options) => {
  if (!directory) {
    usage('make-drive.js DIR [--files N] [--big BYTES] [--huge] [--plain DIR] [--no-manifest]')
  }
  const store = await openStore(directory)
  const drive = await openDrive(store)
  const out = new Writer(drive, options.plain)

  await out.directory('empty-directory')
  await out.file('empty', 0)
  await out.file('hello.txt', 'hello world\n')
  await out.file('script.sh', '#!/bin/sh\necho ran\n', { mode: 0o755 })
  await out.file('nested/a/b/c/deep.txt', 'deep\n')
  await out.file('unicode/žluťoučký kůň.txt', 'kůň\n')
  await out.file('unicode/日本語', 'nihongo\n')
  await out.file('unicode/cafe\u0301 (decomposed)', 'NFD\n')
  await out.file('odd names/ leading and trailing ', 'spaces\n')
  await out.file('odd names/new\nline', 'newline\n')
  await out.file('odd names/' + 'x'.repeat(255), 'longest\n')
  await out.link('links/relative', '../hello.txt')
  await out.link('links/dangling', 'nowhere')
  await out.link('links/directory', '../nested')
  for (const size of [1, 4095, 4096, 4097, CHUNK - 1, CHUNK, CHUNK + 1, 524288, 524289]) {
    await out.file(`sizes/${size}`, size)
  }
  for (let n = 0; n < Number(options.files); n++) {
    await out.file(`many/${String(n % 20).padStart(2, '0')}/file-${n}.txt`, `file number ${n}\n`)
  }
  if (Number(options.big) > 0) await out.file('big.bin', Number(options.big))
  if (options.huge) await out.huge('huge.bin')

  const answer = { key: drive.key.toString('hex'), version: drive.version }
  if (!options['no-manifest']) answer.entries = await walk(drive, !options.huge)
  await drive.promises.close()
  if (options.huge) digHoles(directory)
  say(answer)
  await said()
  process.exit(0)
}, {
  deadline: { type: 'string', default: '600' },
  files: { type: 'string', default: '100' },
  big: { type: 'string', default: String(5 * 1024 * 1024 + 123) },
  huge: { type: 'boolean', default: false },
  plain: { type: 'string' },
  'no-manifest': { type: 'boolean', default: false }
})

/** Writes each entry to the drive and, if asked, to a plain directory. */
class Writer {
  constructor (drive, plain) {
    this.drive = drive
    this.plain = plain
    if (plain) fs.mkdirSync(plain, { recursive: true })
  }

  beside (name) {
    const file = path.join(this.plain, name)
    fs.mkdirSync(path.dirname(file), { recursive: true })
    return file
  }

  async directory (name) {
    await promised(done => this.drive.mkdir('/' + name, done))
    if (this.plain) fs.mkdirSync(path.join(this.plain, name), { recursive: true })
  }

  async link (name, target) {
    await promised(done => this.drive.symlink(target, '/' + name, done))
    if (this.plain) fs.symlinkSync(target, this.beside(name))
  }

  /** `content` is text, or a size in bytes for reproducible noise. */
  async file (name, content, stat = {}) {
    const chunks = typeof content === 'string' ? [Buffer.from(content)] : noise(name, content)
    await this.stream(name, chunks, stat)
  }

  /** Zeroes with a recognisable word at a few offsets beyond 2^31 and 2^32 bits. */
  async huge (name) {
    await this.stream(name, landmarks(HUGE), {})
  }

  async stream (name, chunks, stat) {
    const out = this.drive.createWriteStream('/' + name, stat)
    const fd = this.plain ? fs.openSync(this.beside(name), 'w', stat.mode || 0o644) : null
    let size = 0
    for (const chunk of chunks) {
      if (!out.write(chunk)) await new Promise(resolve => out.once('drain', resolve))
      if (fd !== null && chunk.some(byte => byte !== 0)) fs.writeSync(fd, chunk, 0, chunk.length, size)
      size += chunk.length
    }
    await new Promise((resolve, reject) => out.on('error', reject).on('finish', resolve).end())
    if (fd === null) return
    fs.ftruncateSync(fd, size)
    fs.closeSync(fd)
  }
}

/** `size` bytes that depend on `name` only, in chunks. */
function * noise (name, size) {
  const key = crypto.createHash('sha256').update(name).digest()
  const cipher = crypto.createCipheriv('aes-256-ctr', key, Buffer.alloc(16))
  for (let at = 0; at < size; at += CHUNK) yield cipher.update(Buffer.alloc(Math.min(CHUNK, size - at)))
}

function * landmarks (size) {
  const zeroes = Buffer.alloc(CHUNK)
  const marked = new Set([0, GIB / 2, 2 * GIB - CHUNK, 2 * GIB, size - CHUNK])
  for (let at = 0; at < size; at += CHUNK) {
    if (!marked.has(at)) yield zeroes
    else {
      const chunk = Buffer.alloc(CHUNK)
      chunk.write(`here is byte ${at}\n`)
      yield chunk
    }
  }
}

/** Gives the disk back the blocks of zeroes; without fallocate(1) the store is just larger. */
function digHoles (directory) {
  spawnSync('find', [directory, '-name', 'data', '-exec', 'fallocate', '--dig-holes', '{}', ';'])
}
