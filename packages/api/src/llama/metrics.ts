/** `GET /metrics`: for Prometheus, by llama-server's names (llama.cpp v0.5.0, tools/server/server-task.cpp `to_metrics`). */
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiSchema from "@effect/platform/HttpApiSchema"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Effect from "effect/Effect"
import type { Activity } from "../Activity.ts"
import { notSupported } from "../ApiError.ts"
import { Serving } from "../Serving.ts"

export const metricsEndpoint = HttpApiEndpoint.get("metrics", "/metrics").addSuccess(
  HttpApiSchema.Text({ contentType: "text/plain" }),
)

type Metric = readonly [name: string, about: string, value: number]

const ratio = (count: number, ms: number): number => (ms > 0 ? (count * 1000) / ms : 0)

const counters = (activity: Activity): ReadonlyArray<Metric> => [
  ["prompt_tokens_total", "Tokens of prompts that were computed", activity.promptTokenCount],
  ["prompt_tokens_cached_total", "Tokens of prompts that were cached", activity.cachedTokenCount],
  ["prompt_seconds_total", "Time that prompts took", activity.promptMs / 1000],
  ["tokens_predicted_total", "Tokens that were generated", activity.tokenCount],
  ["tokens_predicted_seconds_total", "Time that they took", activity.generateMs / 1000],
  [
    "spec_decode_num_draft_tokens_total",
    "Tokens that were guessed before they were computed",
    activity.draftedCount,
  ],
  [
    "spec_decode_num_accepted_tokens_total",
    "Guessed tokens that were right",
    activity.acceptedCount,
  ],
  ["n_tokens_max", "Tokens of the longest text, its prompt included", activity.maxTextTokenCount],
]

const gauges = (activity: Activity): ReadonlyArray<Metric> => {
  const { promptTokenCount, promptMs, tokenCount, generateMs } = activity
  return [
    ["prompt_tokens_seconds", "Tokens of prompts a second", ratio(promptTokenCount, promptMs)],
    ["predicted_tokens_seconds", "Generated tokens a second", ratio(tokenCount, generateMs)],
    ["requests_processing", "Texts at work", activity.runningCount],
    ["requests_deferred", "Texts that wait for a slot", activity.queuedCount],
  ]
}

const render = (type: string, metrics: ReadonlyArray<Metric>): string =>
  metrics
    .map(([name, about, value]) => {
      const full = `llamacpp:${name}`
      return `# HELP ${full} ${about}.\n# TYPE ${full} ${type}\n${full} ${value}\n`
    })
    .join("")

export const handleMetrics = () =>
  Effect.gen(function* () {
    const { options, activity } = yield* Serving
    if (!options.hasMetrics) {
      return yield* notSupported("This server gives no metrics: start it with --metrics.")
    }
    return HttpServerResponse.text(
      render("counter", counters(activity)) + render("gauge", gauges(activity)),
      { contentType: "text/plain; version=0.0.4" },
    )
  })
