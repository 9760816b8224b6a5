import { expect, test } from "bun:test"
import type { WorkerExit } from "@ggml-rpc/native/worker"
import * as Effect from "effect/Effect"
import * as EngineHost from "./EngineHost.ts"
import { dropEarly, EngineProcess, startEarly, takeEarly } from "./EngineProcess.ts"

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

const run = <A, E>(effect: Effect.Effect<A, E>): Promise<A> => Effect.runPromise(effect)

test("a host takes the engine that was started early, once, and it is as good as another", async () => {
  startEarly()
  const taken = takeEarly()!
  expect(isAlive(taken.worker.pid)).toBe(true)
  expect(takeEarly()).toBeUndefined()
  await taken.kill()
  taken.cancels.close()

  startEarly()
  startEarly()
  const pids = await run(
    Effect.scoped(
      Effect.gen(function* () {
        const [first, second] = [yield* EngineHost.make(), yield* EngineHost.make()]
        const request = {
          type: "open",
          endpoints: [],
          connectTimeoutMs: 100,
          silenceMs: 0,
        } as const
        for (const engine of [first, second]) {
          const { event } = yield* engine.request(request)
          expect(event.host.name).toBe("CPU")
        }
        expect(takeEarly()).toBeUndefined()
        return [first.pid, second.pid]
      }),
    ),
  )
  expect(new Set(pids).size).toBe(2)
  expect(pids.map(isAlive)).toEqual([false, false])
})

test("one that nobody takes is ended, also for who has connections to hand over", async () => {
  startEarly()
  const dropped = takeEarly()!
  await dropped.kill()
  dropped.cancels.close()
  expect(isAlive(dropped.worker.pid)).toBe(false)
  dropEarly()
  startEarly()
  await run(Effect.scoped(Effect.asVoid(EngineHost.make([2]))))
  expect(takeEarly()).toBeUndefined()
})

test("what it says before anybody listens is told then", async () => {
  const engine = new EngineProcess()
  engine.worker.kill("SIGKILL")
  await engine.worker.ended
  const exits: Array<WorkerExit> = []
  engine.listen({ onMessage: () => {}, onExit: (exit) => exits.push(exit) })
  engine.cancels.close()
  expect(exits).toMatchObject([{ signal: "SIGKILL" }])
})
