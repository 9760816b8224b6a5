/**
 * Servers that compute in rounds, as if each graph took the same time: a graph waits at its server's door until all servers have
 * one, or nothing has come for a while; then all of them run. So rounds count time, however busy the machine is.
 */
import { startNetwork } from "./network.ts"

/** After so long without a new graph nobody is expected to bring one. */
const QUIET_MS = 400

export interface Rounds extends Disposable {
  /** Of the servers' doors, in the order given. */
  readonly endpoints: ReadonlyArray<string>
  /** Rounds so far, and graphs that ran in them. */
  readonly rounds: () => number
  readonly graphs: () => number
}

export const startRounds = (ports: ReadonlyArray<number>): Rounds => {
  let rounds = 0
  let graphs = 0
  let waiting: Array<() => void> = []
  let timer: ReturnType<typeof setTimeout> | undefined
  const release = (): void => {
    clearTimeout(timer)
    rounds++
    graphs += waiting.length
    const all = waiting
    waiting = []
    for (const go of all) go()
  }
  const onGraph = (go: () => void): void => {
    waiting.push(go)
    clearTimeout(timer)
    if (waiting.length === ports.length) release()
    else timer = setTimeout(release, QUIET_MS)
  }
  const networks = ports.map((port) => startNetwork(port, { onGraph }))
  return {
    endpoints: networks.map(({ endpoint }) => endpoint),
    rounds: () => rounds,
    graphs: () => graphs,
    [Symbol.dispose]: () => {
      clearTimeout(timer)
      for (const network of networks) network[Symbol.dispose]()
    },
  }
}
