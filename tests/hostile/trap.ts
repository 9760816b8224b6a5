/** Native calls that may crash or abort, from which this process comes back; and a heap between guards. See trap.c and heap.c. */
import { dlopen } from "bun:ffi"
import { join } from "node:path"
import { type Address, asPointer, cString } from "@ggml-rpc/native/bindings"

/** What ggml or the system said when a call ended in the middle. */
export class Trapped extends Error {}

const TRAPPED = -1000

/** `RTLD_NOW | RTLD_GLOBAL` of dlfcn.h. */
const FOR_ALL = 0x102

/**
 * Compiles the trap and the heap into a library at `path`.
 *
 * @throws {Error} when there is no C compiler, or it fails
 */
export const compileTrap = (path: string): void => {
  const sources = ["trap.c", "heap.c"].map((name) => join(import.meta.dir, name))
  const command = ["cc", "-shared", "-fPIC", "-O2", "-o", path, ...sources, "-lpthread"]
  const { exitCode, stderr } = Bun.spawnSync(command)
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr.toString()}`)
}

const open = (path: string) => {
  const libc = dlopen("libc.so.6", { dlopen: { args: ["ptr", "i32"], returns: "ptr" } }).symbols
  if (libc.dlopen(cString(path), FOR_ALL) === null) throw new Error(`${path} cannot be loaded`)
  return dlopen(path, {
    trap_install: { args: [], returns: "void" },
    trap_abort_callback: { args: [], returns: "ptr" },
    trap_call: { args: ["ptr", "ptr", "ptr"], returns: "i32" },
    trap_words: { args: [], returns: "cstring" },
    heap_damaged: { args: [], returns: "i32" },
    heap_watch: { args: [], returns: "void" },
    heap_most: { args: [], returns: "f64" },
  }).symbols
}

/** Loaded before ggml, whose `operator new` is the heap's then. */
export class Trap {
  readonly #symbols: ReturnType<typeof open>

  constructor(path: string) {
    this.#symbols = open(path)
  }

  /** From now on a crash of this process is told in a line on stderr, or trapped. */
  install(): void {
    this.#symbols.trap_install()
  }

  /** For `ggml_set_abort_callback`: an abort is told, or trapped, as well. */
  get abortCallback(): Address {
    return Number(this.#symbols.trap_abort_callback())
  }

  /** Calls a C function of two pointers that runs in this thread alone. @throws {Trapped} */
  call(address: Address, first: Address, second: Address): number {
    const result = this.#symbols.trap_call(asPointer(address), asPointer(first), asPointer(second))
    if (result === TRAPPED) throw new Trapped(String(this.#symbols.trap_words()))
    return result
  }

  /** `heapBytes` counts from here on. */
  watchHeap(): void {
    this.#symbols.heap_watch()
  }

  /** The most bytes of the heap that were in use at a time since `watchHeap`, besides those before. */
  get heapBytes(): number {
    return this.#symbols.heap_most()
  }

  /** Whether bytes behind a block of the heap changed. */
  get isHeapDamaged(): boolean {
    return this.#symbols.heap_damaged() !== 0
  }
}
