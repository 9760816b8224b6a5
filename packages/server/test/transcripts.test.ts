/** Connections recorded from upstream's client and server, replayed with live handles: the answers are the same. */
import { afterAll, beforeAll, expect, test } from "bun:test"
import { Command } from "@ggml-rpc/protocol"
import { transcripts } from "../../protocol/fixtures/vectors.ts"
import { ANSWER_HEADER, Replay } from "./Replay.ts"
import { TestClient } from "./TestClient.ts"
import { startServer } from "./withServer.ts"

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer()
})
afterAll(() => server.stop())

test.each(transcripts.map((transcript) => [transcript.name, transcript] as const))(
  "%s",
  async (_, { messages }) => {
    expect(messages.length).toBeGreaterThan(0)
    const client = await TestClient.open(server.port)
    const replay = new Replay(client)
    for (const [index, message] of messages.entries()) {
      if (message.from === "server") {
        await replay.answer(message)
      } else if (message.command === Command.COMM_ALLREDUCE) {
        const read = messages.slice(index).find(({ from }) => from === "server")!
        await replay.reduce(message, read.bytes.slice(ANSWER_HEADER))
      } else {
        client.write(replay.request(message))
      }
    }
    // Nothing was refused, and not a byte more comes.
    const { deviceCount } = await client.ask(Command.DEVICE_COUNT, {})
    expect(deviceCount).toBe(1)
    client.close()
    expect(server.log.filter(({ level }) => level === "error")).toEqual([])
  },
)
