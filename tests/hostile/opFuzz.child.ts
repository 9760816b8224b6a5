/**
 * Runs cases one after the other through the session's GRAPH_COMPUTE, until it is told to stop or dies. Which one it runs is
 * in a file that it shares with opFuzz.ts.
 */

import { ggml, io, listDevices, loadBackends, takeLog } from "@ggml-rpc/native/bindings"
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

/** A case may not take more: what it would compute with is as good as refused. */
const MOST_WORK_BYTES = 256 * 2 ** 20

const tell = (event: ChildEvent): void => send(event)

class CaseRunner {
  readonly #arena = new Arena()
  readonly #state: SessionState
  #payload: Uint8Array = new Uint8Array(0)

  constructor(threadCount: number) {
    const cpu = listDevices().find(({ type }) => type === "CPU")!
    const device = new ServedDevice(cpu, threadCount)
    device.hasWorkMemoryFor = (workBytes) => workBytes <= MOST_WORK_BYTES
    this.#state = new SessionState({
      devices: [device],
      cache: undefined,
      ledger: noLedger,
      directMemory: true,
      helloTimeoutMs: 0,
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
      if (!(error instanceof ComputeError)) throw error
      takeLog()
      return outcome.failed
    } finally {
      this.#arena.clear(buffers)
    }
    const stray = this.#arena.strayByte(nodeCase)
    if (stray === undefined) return outcome.ran
    tell({ event: "stray", number, ...stray })
    return outcome.stray
  }
}

const main = (config: ChildConfig): void => {
  io().io_expect_crash()
  loadBackends(0)
  ggml()
  const runner = new CaseRunner(config.threadCount)
  const shared = new Float64Array(mmap(config.progressPath, { shared: true }).buffer)
  tell({ event: "ready", addresses: runner.addresses })
  const nodes = nodesOf(config.source)
  const skipped = new Set(config.skipped)
  for (let number = config.firstNumber; number < config.endNumber; number++) {
    if (shared[progress.stop] !== 0) break
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
