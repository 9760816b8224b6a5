/** The HTTP server: sockets, and what is behind them. */
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpApp from "@effect/platform/HttpApp"
import * as BunHttpServer from "@effect/platform-bun/BunHttpServer"
import type { Cluster, ClusterError } from "@ggml-rpc/client"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { Activity } from "./Activity.ts"
import { apiLayer } from "./Api.ts"
import { ApiError } from "./ApiError.ts"
import { type AnswerOptions, answer } from "./answer.ts"
import { Connection } from "./Connection.ts"
import { chatTemplateOf } from "./chat/template.ts"
import { nowSeconds } from "./ids.ts"
import { type ServedModel, Serving, type ServingOptions } from "./Serving.ts"

export interface ApiOptions extends Partial<ServingOptions>, Partial<Omit<AnswerOptions, "host">> {
  /** 127.0.0.1 */
  readonly host?: string | undefined
  /** 8080; 0: a free one. */
  readonly port?: number | undefined
  /** PEM; undefined: by HTTP. */
  readonly tls?: { readonly key: string; readonly cert: string } | undefined
  /** Requests that may wait for a slot: 128. */
  readonly maxQueued?: number | undefined
}

/** The server, whose scope it ends with. */
export interface ApiServer {
  readonly port: number
  /** Such as `http://127.0.0.1:8080`. */
  readonly url: string
  /** Answers with this model from now on; before, everything is answered with 503. */
  readonly offer: (model: Cluster.ClusterModel, name: string, cluster: Cluster.Cluster) => void
  /** Fails when the model is found to be gone: its engine, or a server of the cluster. */
  readonly ended: Effect.Effect<never, ClusterError>
}

/** No socket listens. */
export class ListenError extends Data.TaggedError("ListenError")<{
  readonly host: string
  readonly port: number
  readonly detail: string
}> {
  override get message() {
    return `Cannot listen on ${this.host}:${this.port}: ${this.detail}. Choose another --port, or another --host.`
  }
}

/** A request comes whole within this time of silence, and a connection that is kept open is closed after it. */
const IDLE_SECONDS = 60

/** Servers are asked what they have free no more often, however many look. */
const MEMORY_TTL_MS = 3000

const loading = new ApiError({ kind: "unavailable", message: "Loading model" })

const servingOf = (options: ApiOptions) =>
  Effect.gen(function* () {
    const ended = yield* Deferred.make<never, ClusterError>()
    const fork = yield* FiberSet.makeRuntime<never>()
    let served: ServedModel | undefined
    const serving = {
      options: {
        defaults: options.defaults ?? {},
        readTimeoutMs: options.readTimeoutMs ?? 3_600_000,
        pingIntervalMs: options.pingIntervalMs ?? 30_000,
        chatTemplate: options.chatTemplate,
        templateArguments: options.templateArguments ?? {},
        enableThinking: options.enableThinking,
        reasoningFormat: options.reasoningFormat ?? "auto",
        hasMetrics: options.hasMetrics ?? false,
        hasPage: options.hasPage ?? true,
        hasSlots: options.hasSlots ?? true,
        slotSavePath: options.slotSavePath,
      },
      activity: new Activity(options.maxQueued ?? 128),
      model: Effect.suspend(() =>
        served === undefined ? Effect.fail(loading) : Effect.succeed(served),
      ),
      fork,
      log: options.log ?? console.error,
      end: (error) => Effect.asVoid(Deferred.fail(ended, error)),
    } satisfies Context.Tag.Service<typeof Serving>
    const offer: ApiServer["offer"] = (model, name, cluster) => {
      serving.activity.slotCount = model.plan.context.slotCount ?? 1
      const template = chatTemplateOf(model, serving.options.chatTemplate)
      const memory = Effect.runSync(Effect.cachedWithTTL(cluster.memory, MEMORY_TTL_MS))
      served = { model, name, cluster, memory, createdAt: nowSeconds(), template }
    }
    return { serving, offer, ended: Deferred.await(ended) }
  })

const answerOptions = (host: string, options: ApiOptions): AnswerOptions => ({
  host,
  apiKeys: options.apiKeys ?? [],
  corsOrigins: options.corsOrigins ?? [],
  maxRequestBytes: options.maxRequestBytes ?? 64 * 1024 * 1024,
  log: options.log ?? console.error,
})

type Handler = (request: Request, context: Context.Context<never>) => Promise<Response>

const makeHandler = (
  serving: Context.Tag.Service<typeof Serving>,
  options: AnswerOptions,
): Effect.Effect<Handler, never, Scope.Scope> =>
  Effect.gen(function* () {
    const layer = Layer.mergeAll(
      HttpApiBuilder.middlewareOpenApi(),
      HttpApiBuilder.middleware(answer(options)),
    ).pipe(
      Layer.provideMerge(apiLayer),
      Layer.provideMerge(
        Layer.mergeAll(
          Layer.succeed(Serving, serving),
          BunHttpServer.layerContext,
          HttpApiBuilder.Router.Live,
          HttpApiBuilder.Middleware.layer,
        ),
      ),
    )
    const runtime = yield* Layer.toRuntime(layer)
    return HttpApp.toWebHandlerRuntime(runtime)(
      yield* Effect.provide(HttpApiBuilder.httpApp, runtime),
    )
  })

const listen = (
  handler: Handler,
  host: string,
  port: number,
  tls: ApiOptions["tls"],
): Effect.Effect<Bun.Server<undefined>, ListenError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.try({
      try: () =>
        Bun.serve({
          hostname: host,
          port,
          idleTimeout: IDLE_SECONDS,
          // What is larger than allowed gets an answer that says so.
          maxRequestBodySize: Number.MAX_SAFE_INTEGER,
          development: false,
          ...(tls === undefined ? {} : { tls }),
          fetch: (request, server) =>
            handler(
              request,
              Context.make(Connection, {
                signal: request.signal,
                waitForEver: () => server.timeout(request, 0),
                waitNoMore: () => server.timeout(request, IDLE_SECONDS),
              }),
            ),
        }),
      catch: (error) =>
        new ListenError({
          host,
          port,
          detail: error instanceof Error ? error.message : String(error),
        }),
    }),
    (server) => Effect.promise(() => server.stop(true)),
  )

/** Listens at once, and answers with a model when it is offered one. */
export const serveApi = (
  options: ApiOptions = {},
): Effect.Effect<ApiServer, ListenError, Scope.Scope> =>
  Effect.gen(function* () {
    const { serving, offer, ended } = yield* servingOf(options)
    const host = options.host ?? "127.0.0.1"
    const handler = yield* makeHandler(serving, answerOptions(host, options))
    const server = yield* listen(handler, host, options.port ?? 8080, options.tls)
    const port = server.port!
    const authority = `${host.includes(":") ? `[${host}]` : host}:${port}`
    const url = `${options.tls === undefined ? "http" : "https"}://${authority}`
    return { port, url, offer, ended }
  })
