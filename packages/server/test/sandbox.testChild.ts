/**
 * For `sandbox.test.ts`: enters the sandbox as a session process does, then tries what the arguments say, and tells how that
 * ended: `done`, or an error's name. A thread that was there before tries it when the first argument is `thread`.
 */
import { dlopen, ptr, toArrayBuffer } from "bun:ffi"
import { openSync, readFileSync, writeSync } from "node:fs"
import { constants } from "node:os"
import { Worker, isMainThread, parentPort, workerData } from "node:worker_threads"
import { cString, io } from "@ggml-rpc/native/bindings"
import { enterSandbox, type SandboxOptions } from "../src/session/sandbox.ts"

export type Attempt = keyof typeof attempts

export interface Try {
  readonly thread: "main" | "other"
  readonly attempt: string
  readonly argument: string
  readonly options: Partial<SandboxOptions>
}

/** Numbers of system calls that the C library has no function for. */
const numbers =
  process.arch === "arm64"
    ? { bpf: 280, keyctl: 219, perf_event_open: 241, io_uring_setup: 425, memfd_create: 279, clone3: 435 }
    : { bpf: 321, keyctl: 250, perf_event_open: 298, io_uring_setup: 425, memfd_create: 319, clone3: 435 }

const libc = dlopen("libc.so.6", {
  __errno_location: { args: [], returns: "ptr" },
  syscall: { args: ["i64", "i64", "i64", "i64", "i64", "i64"], returns: "i64" },
  execv: { args: ["ptr", "ptr"], returns: "i32" },
  fork: { args: [], returns: "i32" },
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  connect: { args: ["i32", "ptr", "i32"], returns: "i32" },
  bind: { args: ["i32", "ptr", "i32"], returns: "i32" },
  listen: { args: ["i32", "i32"], returns: "i32" },
  accept: { args: ["i32", "ptr", "ptr"], returns: "i32" },
  sendto: { args: ["i32", "ptr", "i64", "i32", "ptr", "i32"], returns: "i64" },
  ptrace: { args: ["i64", "i64", "i64", "i64"], returns: "i64" },
  process_vm_readv: { args: ["i32", "ptr", "i64", "ptr", "i64", "i64"], returns: "i64" },
  kill: { args: ["i32", "i32"], returns: "i32" },
  fcntl: { args: ["i32", "i32", "i32"], returns: "i32" },
  mount: { args: ["ptr", "ptr", "ptr", "i64", "ptr"], returns: "i32" },
  unshare: { args: ["i32"], returns: "i32" },
  prctl: { args: ["i32", "i64", "i64", "i64", "i64"], returns: "i32" },
  mmap: { args: ["ptr", "i64", "i32", "i32", "i32", "i64"], returns: "i64" },
  setpriority: { args: ["i32", "i32", "i32"], returns: "i32" },
}).symbols

const errnoName = (): string => {
  const place = libc.__errno_location()!
  const number = new Int32Array(toArrayBuffer(place, 0, 4))[0]!
  return Object.entries(constants.errno).find(([, value]) => value === number)?.[0] ?? `${number}`
}

const outcome = (result: number | bigint): string => (Number(result) < 0 ? errnoName() : "done")

const call = (name: keyof typeof numbers, ...values: readonly number[]): string => {
  const [a = 0, b = 0, c = 0, d = 0, e = 0] = values
  return outcome(libc.syscall(numbers[name], a, b, c, d, e))
}

/** 127.0.0.1:9. */
const address = new Uint8Array(16)
new DataView(address.buffer).setUint16(0, 2, true)
address.set([0, 9, 127, 0, 0, 1], 2)

const block = new Uint8Array(4096)

/** A socket that was there before. */
const [socket] = [new Int32Array(2)].map((pair) => {
  io().io_socketpair(pair)
  return pair[0]!
}) as [number]

const attempts = {
  open: (path: string) => String(openSync(path, "r") > 0 && "done"),
  write: (path: string) => String(openSync(path, "w") > 0 && "done"),
  read: (path: string) => (readFileSync(path, "utf8").length > 0 ? "done" : "empty"),
  spawn: () => String(Bun.spawnSync(["/bin/true"]).exitCode),
  exec: () => outcome(libc.execv(cString("/bin/true"), ptr(new BigUint64Array(2)))),
  fork: () => outcome(libc.fork()),
  socket: () => outcome(libc.socket(2, 1, 0)),
  "local socket": () => outcome(libc.socket(1, 1, 0)),
  connect: () => outcome(libc.connect(socket, address, 16)),
  bind: () => outcome(libc.bind(socket, address, 16)),
  listen: () => outcome(libc.listen(socket, 1)),
  accept: () => outcome(libc.accept(socket, null, null)),
  "connect by sending": () => outcome(libc.sendto(socket, block, 1, 0x2000_0000, address, 16)),
  send: () => outcome(libc.sendto(socket, block, 1, 0, null, 0)),
  ptrace: (pid: string) => outcome(libc.ptrace(16, Number(pid), 0, 0)),
  process_vm_readv: (pid: string) =>
    outcome(libc.process_vm_readv(Number(pid), block, 0, block, 0, 0)),
  "memory of": (pid: string) => String(openSync(`/proc/${pid}/mem`, "r") > 0 && "done"),
  kill: (pid: string) => outcome(libc.kill(Number(pid), 0)),
  "kill itself": () => outcome(libc.kill(process.pid, 0)),
  "signal by socket": (pid: string) => outcome(libc.fcntl(socket, 8, Number(pid))),
  mount: () => outcome(libc.mount(null, cString("/"), null, 0, null)),
  unshare: () => outcome(libc.unshare(0x1000_0000)),
  bpf: () => call("bpf"),
  keyctl: () => call("keyctl"),
  perf_event_open: () => call("perf_event_open"),
  io_uring_setup: () => call("io_uring_setup", 1),
  memfd_create: () => call("memfd_create", ptr(block)),
  "shared memory": () => outcome(libc.mmap(null, 4096, 3, 0x21, -1, 0)),
  "private memory": (bytes: string) => outcome(libc.mmap(null, Number(bytes), 3, 0x22, -1, 0)),
  setpriority: () => outcome(libc.setpriority(0, Number(process.ppid), 19)),
  "undo no_new_privs": () => outcome(libc.prctl(38, 0, 0, 0, 0)),
  nothing: () => "done",
} as const satisfies Record<string, (argument: string) => string>

const attempt = ({ attempt, argument }: Try): string => {
  try {
    return attempts[attempt as Attempt](argument)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error)
  }
}

const say = (text: string): void => {
  writeSync(1, `${text}\n`)
}

if (isMainThread) {
  const wanted = JSON.parse(process.argv[2] ?? "{}") as Try
  const thread = new Worker(import.meta.path, { workerData: wanted })
  // It runs, and has said so.
  await new Promise((resolve) => thread.once("message", resolve))
  const report = enterSandbox({
    hasDrivers: false,
    makesLinks: false,
    threadCount: 1,
    ...wanted.options,
  })
  say(JSON.stringify(report))
  if (wanted.thread === "main") {
    say(attempt(wanted))
    io().io_exit(0)
  }
  thread.once("message", (text) => {
    say(String(text))
    io().io_exit(0)
  })
  thread.postMessage("now")
} else {
  parentPort!.once("message", () => parentPort!.postMessage(attempt(workerData as Try)))
  parentPort!.postMessage("ready")
}
