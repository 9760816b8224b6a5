/** The API over a model, in this process. */
import { type ApiOptions, type ApiServer, serveApi } from "@ggml-rpc/api"
import type { Cluster } from "@ggml-rpc/client"
import { Effect, Exit, Scope } from "effect"
import { openCluster } from "../servers.ts"

export interface StartedApi extends ApiServer {
  readonly model: Cluster.ClusterModel
  readonly enginePid: number
  readonly stop: () => Promise<void>
}

export interface ApiSetup extends ApiOptions {
  readonly plan?: Cluster.PlanOptions
  /** By which the model is offered. */
  readonly name?: string
  /** Servers to lie on; none: this machine's CPU. */
  readonly endpoints?: ReadonlyArray<string>
}

export const startApi = async (path: string, setup: ApiSetup = {}): Promise<StartedApi> => {
  const { plan: planOptions, name = "demo", endpoints = [], ...options } = setup
  const scope = await Effect.runPromise(Scope.make())
  const stop = () => Effect.runPromise(Scope.close(scope, Exit.void))
  try {
    const server = await Effect.runPromise(
      Effect.gen(function* () {
        const api = yield* serveApi({ port: 0, ...options })
        const cluster = yield* openCluster(endpoints)
        const plan = yield* cluster.plan(path, { contextSize: 1024, threads: 1, ...planOptions })
        const model = yield* cluster.load(plan)
        api.offer(model, name, cluster)
        return { ...api, model, enginePid: cluster.enginePid }
      }).pipe(Scope.extend(scope)),
    )
    return { ...server, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

export interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly body: string
}

/** Asks without a client; an object is sent as JSON. */
export const ask = async (
  url: string,
  body?: object | string,
  headers: Record<string, string> = {},
): Promise<Answer> => {
  const response = await fetch(url, {
    headers,
    ...(body === undefined
      ? {}
      : { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body) }),
  })
  return { status: response.status, headers: response.headers, body: await response.text() }
}

/** The same, where JSON comes back. */
export const askJson = async (...request: Parameters<typeof ask>) => {
  const answer = await ask(...request)
  return { ...answer, body: JSON.parse(answer.body) }
}

/** The data of server-sent events. */
export const eventData = (body: string): ReadonlyArray<string> =>
  [...body.matchAll(/^data: (.*)$/gm)].map(([, data]) => data!)
