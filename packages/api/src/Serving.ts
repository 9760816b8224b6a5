/** What all endpoints share: the model, how it is offered, and what goes on. */
import type { ChatTemplate, ReasoningFormat } from "@ggml-rpc/chat"
import type { Cluster, ClusterError } from "@ggml-rpc/client"
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type { Activity } from "./Activity.ts"
import type { ApiError } from "./ApiError.ts"

/** A model that is loaded, under its name. */
export interface ServedModel {
  readonly model: Cluster.ClusterModel
  /** That it lies on. */
  readonly cluster: Cluster.Cluster
  /** What the cluster has free, not older than some seconds. */
  readonly memory: Effect.Effect<Cluster.ClusterMemory, ClusterError>
  /** By which it goes in answers; requests may name any. */
  readonly name: string
  /** Unix time of the load, in seconds. */
  readonly createdAt: number
  /** Its own, or the server's; fails when it cannot be read. */
  readonly template: Effect.Effect<ChatTemplate, ApiError>
}

/** How requests are answered that do not say otherwise. */
export interface ServingOptions {
  /** Sampling and limits, by flags. */
  readonly defaults: Cluster.GenerateOptions
  /** How long a client may leave an answer unread. */
  readonly readTimeoutMs: number
  /** How long a stream may be silent before a comment is sent. 0: for ever. */
  readonly pingIntervalMs: number
  /** Jinja source instead of the model's own template. */
  readonly chatTemplate: string | undefined
  /** Variables of the template, for every chat. */
  readonly templateArguments: Readonly<Record<string, unknown>>
  /** Whether models may think, where a request does not say; undefined: as their templates do. */
  readonly enableThinking: boolean | undefined
  /** How thoughts are told, where a request does not say. */
  readonly reasoningFormat: ReasoningFormat
  /** `GET /metrics`; false. */
  readonly hasMetrics: boolean
  /** The page at `GET /`; true. */
  readonly hasPage: boolean
  /** `GET /slots`; true. */
  readonly hasSlots: boolean
  /** Folder of the files of `POST /slots/:id`; undefined: there is no such endpoint. */
  readonly slotSavePath: string | undefined
}

export class Serving extends Context.Tag("@ggml-rpc/api/Serving")<
  Serving,
  {
    readonly options: ServingOptions
    readonly activity: Activity
    /** Fails with 503 until it is loaded. */
    readonly model: Effect.Effect<ServedModel, ApiError>
    /** Of what could not be foreseen. */
    readonly log: (line: string) => void
    /** Tells that the model is gone, and will not come back. */
    readonly end: (error: ClusterError) => Effect.Effect<void>
    /** Runs what goes on behind its request, until the server ends. */
    readonly fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.RuntimeFiber<A, E>
  }
>() {}
