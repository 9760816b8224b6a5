/** A program of a strict user, who has the types of no runtime: every door is opened once, and shapes are what they say. */
import { Cluster, type ClusterError, ConnectError, parseEndpoint } from "@ggml-rpc/client"
import { type Model, openCluster, PlanError } from "@ggml-rpc/client/promise"
import { type GgufFile, ggufString, readGguf } from "@ggml-rpc/gguf"
import { Ggml, hostMemory, Llama } from "@ggml-rpc/native"
import { io } from "@ggml-rpc/native/bindings"
import type { ModelInfo } from "@ggml-rpc/native/bindings/llama"
import { ensureShim } from "@ggml-rpc/native/build"
import { Command, decodeRequest, encodeRequest, newest, type RpcTensor } from "@ggml-rpc/protocol"
import { formatBanner, serve } from "@ggml-rpc/server"
import { Effect, Stream } from "effect"
import { writeDemoModel } from "ggml-rpc/demo-model"

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const holds = <_ extends true>(): void => {}

export const byEffect = Effect.gen(function* () {
  const endpoint = yield* parseEndpoint("10.0.0.2:50052")
  const cluster = yield* Cluster.open({ endpoints: [endpoint] })
  const model = yield* cluster.load(yield* cluster.plan("model.gguf", { contextSize: 4096 }))
  yield* Stream.runForEach(model.generate("Hello", { temp: 0 }), (token) =>
    Effect.succeed(token.text.length + token.id),
  )
  const server = yield* serve({ host: "127.0.0.1", port: 0 })
  const llama = yield* Llama.Llama
  const ggml = yield* Ggml.Ggml
  return [formatBanner(server), llama, ggml, model.info] as const
})

export const byPromise = async (signal: AbortSignal): Promise<string> => {
  await ensureShim()
  const cluster = await openCluster(["10.0.0.2:50052"], { signal })
  const model: Model = await cluster.load(await cluster.plan("model.gguf"))
  holds<Same<typeof model.info, ModelInfo>>()
  let text = ""
  try {
    for await (const token of model.generate("Hello", { maxTokens: 3 })) text += token.text
  } catch (error) {
    if (error instanceof PlanError) holds<Same<typeof error._tag, "PlanError">>()
    if (error instanceof ConnectError) text = error.endpoint
  } finally {
    await cluster.close()
  }
  // @ts-expect-error there is no such option
  model.generate("Hello", { maxToken: 3 })
  return text
}

export const sizes = (file: GgufFile, error: ClusterError): readonly unknown[] => {
  const frame = encodeRequest(Command.ALLOC_BUFFER, { device: 1, sizeBytes: 4096n }, newest)
  const { sizeBytes } = decodeRequest(Command.ALLOC_BUFFER, frame.subarray(9), newest)
  holds<Same<typeof sizeBytes, bigint>>()
  holds<Same<typeof RpcTensor.size, number>>()
  writeDemoModel("demo.gguf")
  return [
    sizeBytes,
    ggufString(file, "general.name"),
    readGguf("demo.gguf"),
    error._tag,
    hostMemory,
    io,
  ]
}
