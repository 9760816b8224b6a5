import { read } from "bun:ffi"
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test"
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { asPointer, cString, errno, io, ioErrorText, socketPair } from "./io.ts"

const linux = process.platform === "linux"

/** errno values that this file meets, by system. */
const expected = {
  badDescriptor: -9,
  brokenPipe: -32,
  again: linux ? -11 : -35,
}

let folder = ""
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-io-"))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const opened: Array<number> = []
afterEach(() => {
  for (const fd of opened.splice(0)) io().io_close(fd)
})

const pair = (): readonly [number, number] => {
  const both = socketPair()
  opened.push(...both)
  return both
}

const close = (fd: number): void => {
  opened.splice(opened.indexOf(fd), 1)
  expect(io().io_close(fd)).toBe(0)
}

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const text = (block: Uint8Array): string => new TextDecoder().decode(block)

/** A worker that receives `sizeBytes` from `fd`, blocking, and answers how many came and their sum. */
const receiver = (fd: number, sizeBytes: number) => {
  const worker = new Worker(new URL("./io.testWorker.ts", import.meta.url).href)
  const answer = new Promise<{ received: number; sum: number }>((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data)
    worker.onerror = ({ message }) => reject(new Error(message))
  })
  worker.postMessage({ fd, sizeBytes })
  return answer.finally(() => worker.terminate())
}

describe("a pair of sockets", () => {
  test("moves bytes both ways", () => {
    const [a, b] = pair()
    expect(io().io_send(a, bytes("hello"), 5)).toBe(5)
    const block = new Uint8Array(16)
    expect(io().io_recv(b, block, 16)).toBe(5)
    expect(text(block.subarray(0, 5))).toBe("hello")
    expect(io().io_send(b, bytes("back"), 4)).toBe(4)
    expect(io().io_recv_exact(a, block, 4)).toBe(4)
    expect(text(block.subarray(0, 4))).toBe("back")
  })

  test("sends two parts in their order, empty ones too", () => {
    const [a, b] = pair()
    const block = new Uint8Array(16)
    for (const [first, second] of [
      ["head", "body"],
      ["", "body"],
      ["head", ""],
    ] as const) {
      const size = first.length + second.length
      const [one, two] = [bytes(`${first}!`), bytes(`${second}!`)]
      expect(io().io_send2(a, one, first.length, two, second.length)).toBe(size)
      expect(io().io_recv_exact(b, block, size)).toBe(size)
      expect(text(block.subarray(0, size))).toBe(first + second)
    }
    expect(io().io_send2(a, bytes("x"), 0, null, 0)).toBe(0)
  })

  test("blocks until a reader took what the kernel cannot hold", async () => {
    const [a, b] = pair()
    const [head, body] = [new Uint8Array(3_000_001).fill(1), new Uint8Array(9_000_003).fill(2)]
    const size = head.length + body.length
    const answer = receiver(b, size)
    expect(io().io_send2(a, head, head.length, body, body.length)).toBe(size)
    expect(await answer).toEqual({ received: size, sum: head.length + 2 * body.length })
  })

  test("tells how much came before the other end closed", () => {
    const [a, b] = pair()
    io().io_send(a, bytes("part"), 4)
    close(a)
    const block = new Uint8Array(16)
    expect(io().io_recv_exact(b, block, 16)).toBe(4)
    expect(io().io_recv(b, block, 16)).toBe(0)
    // And writing to it is an error, not a signal that ends the process.
    expect(io().io_send(b, block, 16)).toBe(expected.brokenPipe)
  })

  test("waits for something to read", () => {
    const [a, b] = pair()
    expect(io().io_wait_readable(b, 0)).toBe(0)
    const started = performance.now()
    expect(io().io_wait_readable(b, 30)).toBe(0)
    expect(performance.now() - started).toBeGreaterThan(25)
    io().io_send(a, bytes("x"), 1)
    expect(io().io_wait_readable(b, -1)).toBe(1)
    close(a)
    io().io_recv(b, new Uint8Array(1), 1)
    expect(io().io_wait_readable(b, -1)).toBe(1)
  })

  test("carries a connection: its descriptor, a number, and what was read of it", () => {
    const path = join(folder, "carried.txt")
    writeFileSync(path, "carried")
    const [a, b] = pair()
    const file = openSync(path, "r")
    const [block, out] = [new Uint8Array(16), new Int32Array(3)]
    expect(io().io_send_connection(a, file, 0xc5, bytes("early"), 5, -1)).toBe(0)
    expect(io().io_send_connection(a, file, -7, bytes(""), 0, -1)).toBe(0)
    closeSync(file)
    const copy = io().io_receive_connection(b, block, 16, out)
    opened.push(copy)
    expect([...out]).toEqual([0xc5, 5, -1])
    expect(text(block.subarray(0, 5))).toBe("early")
    expect(readSync(copy, block)).toBe(7)
    expect(text(block.subarray(0, 7))).toBe("carried")
    opened.push(io().io_receive_connection(b, block, 16, out))
    expect([...out]).toEqual([-7, 0, -1])
    close(a)
    expect(io().io_receive_connection(b, block, 16, out)).toBe(expected.brokenPipe)
  })

  test("carries what was read of a connection in a file, too", () => {
    const [a, b] = pair()
    const many = new Uint8Array(3_000_000).map((_, at) => at * 7)
    const file = io().io_memory_file(many, many.length)
    const out = new Int32Array(3)
    expect(io().io_send_connection(a, a, 1, bytes(""), 0, file)).toBe(0)
    close(file)
    opened.push(io().io_receive_connection(b, new Uint8Array(1), 1, out))
    const [, , copy] = out
    expect(Buffer.compare(readFileSync(copy!), many)).toBe(0)
    close(copy!)
  })

  test.skipIf(!linux)("leaves nothing open of a message that is not as it should be", () => {
    const [a, b] = pair()
    const out = new Int32Array(3)
    const block = new Uint8Array(16)
    const before = readdirSync("/proc/self/fd").length
    for (const more of [-1, a]) {
      expect(io().io_send_connection(a, a, 1, bytes("too long"), 8, more)).toBe(0)
      expect(io().io_receive_connection(b, block, 4, out)).toBeLessThan(0)
      io().io_recv(b, block, 16)
    }
    expect(io().io_send_connection(a, a, 1, bytes(""), 0, a)).toBe(0)
    expect(io().io_receive_note(b, a, 1000, block, 16, out)).toBeLessThan(0)
    expect(out[2]).toBe(-1)
    expect(readdirSync("/proc/self/fd").length).toBe(before)
  })

  test("that nobody reads takes no connection, and does not wait", () => {
    const [a] = pair()
    const block = new Uint8Array(16 * 1024)
    let result = 0
    for (let times = 0; times < 1000 && result === 0; times++) {
      result = io().io_send_connection(a, a, 0, block, block.length, -1)
    }
    expect(result).toBe(errno.again)
  })

  test("tells when its peer sends no more", () => {
    const [a, b] = pair()
    io().io_send(b, bytes("x"), 1)
    expect(io().io_peer_gone(a)).toBe(0)
    io().io_shutdown(b)
    expect(io().io_peer_gone(a)).toBe(1)
  })

  test.skipIf(!linux)("tells what has not arrived", () => {
    const [a, b] = pair()
    expect(io().io_unacknowledged(a)).toBe(0)
    io().io_send(a, bytes("hello"), 5)
    expect(io().io_unacknowledged(a)).toBeGreaterThan(0)
    io().io_recv(b, new Uint8Array(5), 5)
    expect(io().io_unacknowledged(a)).toBe(0)
  })

  test("has copies that stay open", () => {
    const [a, b] = pair()
    const copy = io().io_duplicate(a)
    expect(copy).toBeGreaterThanOrEqual(3)
    opened.push(copy)
    close(a)
    expect(io().io_send(copy, bytes("x"), 1)).toBe(1)
    expect(io().io_recv(b, new Uint8Array(1), 1)).toBe(1)
  })

  test("is not there after it was closed", () => {
    const [a] = pair()
    close(a)
    const block = new Uint8Array(1)
    const failures = [
      io().io_recv(a, block, 1),
      io().io_recv_exact(a, block, 1),
      io().io_send(a, block, 1),
      io().io_duplicate(a),
      io().io_close(a),
      io().io_tune_socket(a, 10),
    ]
    expect(failures).toEqual(failures.map(() => expected.badDescriptor))
    expect(ioErrorText(expected.badDescriptor)).toBe("Bad file descriptor")
  })
})

describe("moving what can be moved", () => {
  const again = expected.again

  test("takes two parts in one call, and no more than is there", () => {
    const [a, b] = pair()
    const [head, body] = [new Uint8Array(4), new Uint8Array(8)]
    expect(io().io_recv2(b, head, 4, body, 8, 0)).toBe(again)
    io().io_send(a, bytes("headbody"), 8)
    expect(io().io_recv2(b, head, 4, body, 8, 1)).toBe(8)
    expect(text(head) + text(body.subarray(0, 4))).toBe("headbody")
    expect(io().io_recv2(b, null, 0, body, 8, 0)).toBe(again)
    close(a)
    expect(io().io_recv2(b, head, 4, null, 0, 0)).toBe(expected.brokenPipe)
  })

  test("sends what a socket takes, and then nothing until somebody has read", () => {
    const [a, b] = pair()
    const block = new Uint8Array(1_000_000)
    let sent = 0
    for (let size = -1; size !== 0; sent += size) {
      size = io().io_send2_now(a, block, 1000, block, block.length)
      expect(size).toBeGreaterThanOrEqual(0)
    }
    expect(sent).toBeGreaterThan(1000)
    const polled = Int32Array.of(a, 4, b, 1)
    expect(io().io_poll(polled, 2, 0)).toBe(1)
    expect([polled[1]! >>> 16, polled[3]! >>> 16]).toEqual([0, 1])
    const target = new Uint8Array(sent)
    expect(io().io_recv_exact(b, target, sent)).toBe(sent)
    polled.set([a, 4, b, 1])
    expect(io().io_poll(polled, 2, -1)).toBe(1)
    expect([polled[1]! >>> 16, polled[3]! >>> 16]).toEqual([4, 0])
    close(b)
    expect(io().io_send2_now(a, block, 1, null, 0)).toBe(expected.brokenPipe)
  })

  test("polls no longer than it shall", () => {
    const [a] = pair()
    expect(io().io_poll(Int32Array.of(a, 1), 1, 5)).toBe(0)
  })
})

describe("connecting", () => {
  const listen = (hostname: string) =>
    Bun.listen({
      hostname,
      port: 0,
      socket: {
        data: () => {},
        open: (socket) => {
          socket.end("hi")
        },
      },
    })

  test("reaches a name, an IPv4 and an IPv6 address", async () => {
    const server = listen("127.0.0.1")
    try {
      for (const host of ["localhost", "127.0.0.1"]) {
        const fd = io().io_connect(cString(host), server.port, 2000)
        expect(fd).toBeGreaterThanOrEqual(0)
        opened.push(fd)
        expect(io().io_tune_socket(fd, 10)).toBe(0)
      }
    } finally {
      server.stop(true)
    }
    let v6: ReturnType<typeof listen>
    try {
      v6 = listen("::1")
    } catch {
      return // This machine has no IPv6.
    }
    const fd = io().io_connect(cString("::1"), v6.port, 2000)
    v6.stop(true)
    expect(fd).toBeGreaterThanOrEqual(0)
    opened.push(fd)
  })

  test("gives a socket that blocks", async () => {
    const server = listen("127.0.0.1")
    try {
      const fd = io().io_connect(cString("127.0.0.1"), server.port, 2000)
      opened.push(fd)
      // The server answers on this thread, so not before the event loop runs; a socket that does not
      // block would give an error at once.
      expect(await receiver(fd, 2)).toEqual({ received: 2, sum: 104 + 105 })
    } finally {
      server.stop(true)
    }
  })

  test("to nobody is refused", () => {
    const server = listen("127.0.0.1")
    const { port } = server
    server.stop(true)
    expect(io().io_connect(cString("127.0.0.1"), port, 2000)).toBe(errno.connectionRefused)
    expect(ioErrorText(errno.connectionRefused)).toBe("Connection refused")
  })

  test("to a name that nobody has says so", () => {
    const result = io().io_connect(cString("not a host name"), 1, 2000)
    expect(result).toBeLessThanOrEqual(-10000)
    expect(ioErrorText(result)).toMatch(/not known|nodename|No address|Temporary failure/)
  })

  test("ends after the timeout", () => {
    // TEST-NET-1 of RFC 5737: no host; some networks refuse it at once.
    const started = performance.now()
    const result = io().io_connect(cString("192.0.2.1"), 9, 200)
    if (result >= 0) opened.push(result)
    expect(performance.now() - started).toBeLessThan(2000)
    if (performance.now() - started > 190) expect(result).toBe(errno.timedOut)
  })
})

test("io_copy writes at an offset", () => {
  const target = new Uint8Array(4)
  io().io_copy(target, 1, Uint8Array.of(7, 8, 9), 2)
  expect([...target]).toEqual([0, 7, 8, 0])
})

test("a cancel stops the request that it names, and no other", () => {
  expect(io().io_map_cancels(-1)).toBe(expected.badDescriptor)
  const fd = openSync(join(folder, "cancels"), "wx+")
  ftruncateSync(fd, 4096)
  expect(io().io_map_cancels(fd)).toBe(0)
  const cancel = (id: number): number => writeSync(fd, Uint32Array.of(id), 0, 4, (id % 1024) * 4)
  const isStopped = (id: number): boolean => {
    io().io_set_running(id)
    return io().io_abort_requested() === 1
  }
  cancel(7)
  cancel(2000)
  expect([0, 6, 7, 8, 7 + 1024, 2000].map(isStopped)).toEqual([
    ...[false, false, true, false, false, true],
  ])
  expect([7, 8, 2000].map((id) => io().io_is_cancelled(id))).toEqual([1, 0, 1])
  cancel(7 + 1024)
  expect([7, 7 + 1024].map(isStopped)).toEqual([false, true])
  io().io_set_running(0)
  closeSync(fd)
})

test("the abort flag is raised and lowered", () => {
  const flag = asPointer(Number(io().io_abort_flag()))
  io().io_watch_client(-1)
  expect(read.i32(flag, 0)).toBe(0)
  io().io_raise_abort()
  expect(read.i32(flag, 0)).toBe(1)
  io().io_watch_client(-1)
  expect(read.i32(flag, 0)).toBe(0)
})
