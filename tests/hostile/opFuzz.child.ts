/**
 * Runs cases one after the other through the session's GRAPH_COMPUTE, until it is told to stop or dies. Which one it runs is
 * in a file that it shares with opFuzz.ts.
 */

import { dlopen } from "bun:ffi"
import {
  type Address,
  asPointer,
  ggml,
  io,
  librarySet,
  listDevices,
  loadBackends,
  takeLog,
} from "@ggml-rpc/native/bindings"
import { send } from "@ggml-rpc/native/worker/child"
import { ProtocolError } from "@ggml-rpc/protocol"
import { mmap } from "bun"
import { graphCompute } from "../../packages/server/src/session/commands/graph.ts"
import { ComputeError } from "../../packages/server/src/session/errors.ts"
import { ServedDevice } from "../../packages/server/src/session/memory/devices.ts"
import { noLedger } from "../../packages/server/src/session/memory/MemoryLedger.ts"
import { CompiledRule } from "../../packages/server/src/session/ops/CompiledRule.ts"
import { SessionState } from "../../packages/server/src/session/SessionState.ts"
import { Arena } from "./Arena.ts"
import { Cases } from "./cases.ts"
import { type ChildConfig, type ChildEvent, outcome, progress } from "./childProtocol.ts"
import type { NodeCase } from "./nodeCase.ts"
import { Trap, Trapped } from "./trap.ts"

/** A case may not take more: what it would compute with is as good as refused. */
const MOST_WORK_BYTES = 64 * 2 ** 20

/** Lists of kernels, and a cache line a thread, besides the memory that the session expects a graph to compute with. */
const SMALL_BYTES = 64 * 1024

/** What a process comes back from leaves something behind each time: then another one goes on. */
const MOST_TRAPPED = 250

const openBase = () =>
  dlopen(librarySet().ggmlBase, {
    ggml_set_abort_callback: { args: ["ptr"], returns: "ptr" },
  }).symbols

const tell = (event: ChildEvent): void => send(event)

/** The CPU, with a backend of its own for each case: its work memory is just as large as that case asks for. */
const fuzzedDevice = (threadCount: number): ServedDevice => {
  const cpu = listDevices().find(({ type }) => type === "CPU")!
  const device = new ServedDevice(cpu, threadCount)
  device.hasWorkMemoryFor = (workBytes) => workBytes <= MOST_WORK_BYTES
  let backend: Address = 0
  device.backend = () => {
    const symbols = ggml()
    if (backend !== 0) symbols.ggml_backend_free(asPointer(backend))
    backend = Number(symbols.ggml_backend_dev_init(asPointer(cpu.address), null))
    symbols.gs_backend_set_threads(asPointer(backend), threadCount)
    // Indices that an earlier node made are looked at between two nodes: a wrong one stops the graph by this flag.
    symbols.gs_backend_set_abort_flag(asPointer(backend), io().io_abort_flag())
    return backend
  }
  return device
}

class CaseRunner {
  readonly #arena = new Arena()
  readonly #trap: Trap
  readonly #state: SessionState
  #payload: Uint8Array = new Uint8Array(0)
  /** Cases that crashed or aborted, and that this process came back from. */
  trappedCount = 0

  constructor(trap: Trap, threadCount: number) {
    this.#trap = trap
    this.#state = new SessionState({
      devices: [fuzzedDevice(threadCount)],
      cache: undefined,
      ledger: noLedger,
      directMemory: true,
      allowTraining: true,
      repack: true,
      onRequest: undefined,
    })
    // The request comes from here instead of a socket.
    this.#state.wire.take = () => {
      const { block } = this.#state
      new Uint8Array(block.buffer, block.byteOffset).set(this.#payload)
    }
    this.#watchCompute(threadCount === 1)
  }

  /** ggml's work is watched, and, where it has one thread, done through the trap: a crash does not end this process. */
  #watchCompute(isTrapped: boolean): void {
    const symbols = ggml()
    const compute = symbols.gs_graph_compute
    const { ptr } = compute as unknown as { readonly ptr: Address }
    const watched = (backend: Address, graph: Address): number => {
      this.#trap.watchHeap()
      return isTrapped
        ? this.#trap.call(ptr, backend, graph)
        : compute(asPointer(backend), asPointer(graph))
    }
    symbols.gs_graph_compute = watched as unknown as typeof compute
  }

  get addresses() {
    return this.#arena.addresses
  }

  /** An `outcome`. */
  run(nodeCase: NodeCase, number: number): number {
    const { buffers, wire } = this.#state
    this.#payload = this.#arena.place(nodeCase, buffers)
    wire.sizeBytes = this.#payload.length
    let result: number = outcome.ran
    try {
      graphCompute(this.#state)
    } catch (error) {
      result = this.#outcomeOf(error, nodeCase, number)
    } finally {
      this.#forgetLayouts()
      this.#arena.clear(buffers)
    }
    if (result !== outcome.ran && result !== outcome.failed) return result
    return this.#isHarmless(nodeCase, number) ? result : outcome.broken
  }

  /** What the weights lie in is no change of their bytes, and the next case's buffers are other ones in the same memory. */
  #forgetLayouts(): void {
    const symbols = ggml()
    for (const { native, nativeBase, sizeBytes } of this.#state.buffers.all()) {
      symbols.gs_repack_original(asPointer(native), nativeBase, sizeBytes)
      symbols.gs_repack_forget(asPointer(native))
    }
  }

  #outcomeOf(error: unknown, nodeCase: NodeCase, number: number): number {
    if (error instanceof ProtocolError) {
      const { field, reason, value } = error
      const isControl = nodeCase.fields.length === 0
      if (isControl) tell({ event: "refused", number, message: `${field} ${reason} (${value})` })
      return outcome.refused
    }
    if (error instanceof Trapped) {
      this.trappedCount++
      tell({ event: "broken", number, words: error.message })
      return outcome.broken
    }
    if (!(error instanceof ComputeError)) throw error
    takeLog()
    return outcome.failed
  }

  /** Whether the case that ran changed no byte but its own, and took no more memory than it said. */
  #isHarmless(nodeCase: NodeCase, number: number): boolean {
    const stray = this.#arena.strayByte(nodeCase)
    if (stray !== undefined) {
      tell({ event: "stray", number, ...stray })
      return false
    }
    const words = this.#heapWords()
    if (words === undefined) return true
    tell({ event: "broken", number, words })
    return false
  }

  #heapWords(): string | undefined {
    if (this.#trap.isHeapDamaged) return "wrote behind its work memory"
    const { workBytes } = this.#state.graph
    const { heapBytes } = this.#trap
    if (heapBytes <= workBytes + SMALL_BYTES) return undefined
    return `took more work memory than the check says: ${heapBytes} bytes instead of ${workBytes}`
  }
}

const main = (config: ChildConfig): void => {
  io().io_expect_crash()
  const trap = new Trap(config.trapPath)
  loadBackends(0)
  trap.install()
  openBase().ggml_set_abort_callback(asPointer(trap.abortCallback))
  if (config.isUnchecked) CompiledRule.prototype.judge = () => ""
  const runner = new CaseRunner(trap, config.threadCount)
  const shared = new Float64Array(mmap(config.progressPath, { shared: true }).buffer)
  tell({ event: "ready", addresses: runner.addresses })
  const cases = new Cases(config.source)
  const skipped = new Set(config.skipped)
  for (let number = config.firstNumber; number < config.endNumber; number++) {
    if (shared[progress.stop] !== 0 || runner.trappedCount >= MOST_TRAPPED) break
    const nodeCase = cases.at(number)
    const counts = progress.counts + cases.opIndex(number) * outcome.count
    if (nodeCase.fields.some((field) => skipped.has(`${nodeCase.op} ${field}`))) {
      shared[counts + outcome.skipped]!++
      continue
    }
    shared[progress.number] = number
    shared[progress.startedMs] = Date.now()
    shared[counts + runner.run(nodeCase, number)]!++
  }
  shared[progress.startedMs] = 0
  io().io_exit(0)
}

main(JSON.parse(process.argv[2]!) as ChildConfig)
