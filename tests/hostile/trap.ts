/** Calls of ggml that may crash or abort, from which this process comes back; see trap.c. */
import { cc } from "bun:ffi"
import { join } from "node:path"
import { type Address, asPointer } from "@ggml-rpc/native/bindings"

/** What ggml or the system said when a call ended in the middle. */
export class Trapped extends Error {}

const TRAPPED = -1000

const open = () =>
  cc({
    source: join(import.meta.dir, "trap.c"),
    symbols: {
      trap_install: { args: [], returns: "void" },
      trap_abort_callback: { args: [], returns: "ptr" },
      trap_call: { args: ["ptr", "ptr", "ptr"], returns: "i32" },
      trap_words: { args: [], returns: "cstring" },
    },
  }).symbols

/** Only for calls that run in the calling thread. */
export class Trap {
  readonly #symbols = open()

  /** From now on a crash of this process, or an abort that calls `abortCallback`, is told in a line on stderr, or trapped. */
  install(): void {
    this.#symbols.trap_install()
  }

  get abortCallback(): Address {
    return Number(this.#symbols.trap_abort_callback())
  }

  /** Calls a C function of two pointers. @throws {Trapped} */
  call(address: Address, first: Address, second: Address): number {
    const result = this.#symbols.trap_call(asPointer(address), asPointer(first), asPointer(second))
    if (result === TRAPPED) throw new Trapped(String(this.#symbols.trap_words()))
    return result
  }
}
