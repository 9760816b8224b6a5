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
import { SessionState } from "../../packages/server/src/session/SessionState.ts"
import { Arena } from "./Arena.ts"
import { caseOf, nodesOf } from "./cases.ts"
import { type ChildConfig, type ChildEvent, outcome, progress } from "./childProtocol.ts"
import type { NodeCase } from "./nodeCase.ts"
import { Trap, Trapped } from "./trap.ts"

/** A case may not take more: what it would compute with is as good as refused. */
const MOST_WORK_BYTES = 256 * 2 ** 20

/** What a process comes back from leaves something behind each time: then another one goes on. */
const MOST_TRAPPED = 250

const openBase = () =>
  dlopen(librarySet().ggmlBase, {
    ggml_set_abort_callback: { args: ["ptr"], returns: "ptr" },
  }).symbols

/** Has ggml's work done through a trap: with one thread, a kernel that crashes does not end the process. */
const trapCompute = (): void => {
  const trap = new Trap()
  trap.install()
  openBase().ggml_set_abort_callback(asPointer(trap.abortCallback))
  const symbols = ggml()
  const { ptr } = symbols.gs_graph_compute as unknown as { readonly ptr: Address }
  const trapped = (backend: unknown, graph: unknown): number =>
    trap.call(ptr, Number(backend), Number(graph))
  symbols.gs_graph_compute = trapped as typeof symbols.gs_graph_compute
}

const tell = (event: ChildEvent): void => send(event)

class CaseRunner {
  readonly #arena = new Arena()
  readonly #state: SessionState
  #payload: Uint8Array = new Uint8Array(0)
  /** Cases that crashed or aborted, and that this process came back from. */
  trappedCount = 0

  constructor(threadCount: number) {
    const cpu = listDevices().find(({ type }) => type === "CPU")!
    const device = new ServedDevice(cpu, threadCount)
    device.hasWorkMemoryFor = (workBytes) => workBytes <= MOST_WORK_BYTES
    this.#state = new SessionState({
      devices: [device],
      cache: undefined,
      ledger: noLedger,
      directMemory: true,
      allowTraining: true,
      onRequest: undefined,
    })
    // The request comes from here instead of a socket.
    this.#state.wire.take = () => {
      const { block } = this.#state
      new Uint8Array(block.buffer, block.byteOffset).set(this.#payload)
    }
  }

  get addresses() {
    return this.#arena.addresses
  }

  /** An `outcome`. */
  run(nodeCase: NodeCase, number: number): number {
    const { buffers, wire } = this.#state
    this.#payload = this.#arena.place(nodeCase, buffers)
    wire.sizeBytes = this.#payload.length
    try {
      graphCompute(this.#state)
    } catch (error) {
      if (error instanceof ProtocolError) {
        if (nodeCase.fields.length === 0) {
          tell({
            event: "refused",
            number,
            message: `${error.field} ${error.reason} (${error.value})`,
          })
        }
        return outcome.refused
      }
      if (error instanceof Trapped) {
        this.trappedCount++
        tell({ event: "trapped", number, words: error.message })
        return outcome.broken
      }
      if (!(error instanceof ComputeError)) throw error
      takeLog()
      return this.#strays(nodeCase, number) ? outcome.broken : outcome.failed
    } finally {
      this.#arena.clear(buffers)
    }
    return this.#strays(nodeCase, number) ? outcome.broken : outcome.ran
  }

  #strays(nodeCase: NodeCase, number: number): boolean {
    const stray = this.#arena.strayByte(nodeCase)
    if (stray !== undefined) tell({ event: "stray", number, ...stray })
    return stray !== undefined
  }
}

const main = (config: ChildConfig): void => {
  io().io_expect_crash()
  loadBackends(0)
  if (config.threadCount === 1) trapCompute()
  const runner = new CaseRunner(config.threadCount)
  const shared = new Float64Array(mmap(config.progressPath, { shared: true }).buffer)
  tell({ event: "ready", addresses: runner.addresses })
  const nodes = nodesOf(config.source)
  const skipped = new Set(config.skipped)
  for (let number = config.firstNumber; number < config.endNumber; number++) {
    if (shared[progress.stop] !== 0 || runner.trappedCount >= MOST_TRAPPED) break
    const nodeCase = caseOf(config.source, number)
    const counts = progress.counts + (number % nodes.length) * outcome.count
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
