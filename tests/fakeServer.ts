/** A server that answers as a test wants: what real ones never say. For the probe and the engine. */
import {
  Command,
  encodeResponse,
  newest,
  type ProtocolSpec,
  REQUEST_HEADER_SIZE_BYTES,
  RequestDecoder,
} from "@ggml-rpc/protocol"
import type { TCPSocketListener } from "bun"
import { startProcess, waitUntil } from "./peers/process.ts"

/**
 * The bytes to send, now or later, or before the end of the connection; `close` ends it, `nothing` leaves the client waiting.
 */
export type Answer =
  | Uint8Array
  | Promise<Uint8Array>
  | { readonly last: Uint8Array }
  | "close"
  | "nothing"

/** What to answer to a command; `payload` is valid during the call. */
export type Answers = Readonly<Record<number, (payload: Uint8Array) => Answer>>

export interface FakeServer extends Disposable {
  /** `127.0.0.1:port`. */
  readonly endpoint: string
  readonly port: number
  /** Commands that came, over all connections. */
  readonly commands: ReadonlyArray<number>
}

/** Ids of this project's commands begin here. */
const FIRST_EXTENSION = 128

interface Connection {
  readonly decoder: RequestDecoder
  readonly tell: (command: number, payload: Uint8Array) => void
}

const MIB = 1024n * 1024n

/** The HELLO response of a version. */
export const helloOf = (major: number, minor: number, patch: number, extension = 0): Uint8Array =>
  encodeResponse(Command.HELLO, { major, minor, patch, extension, connCaps: new Uint8Array(24) })

/** A server of protocol 7.0.0 with one device of 1 GiB. */
export const goodAnswers: Answers = {
  [Command.HELLO]: () => helloOf(7, 0, 0),
  [Command.DEVICE_COUNT]: () => encodeResponse(Command.DEVICE_COUNT, { deviceCount: 1 }),
  [Command.GET_ALIGNMENT]: () => encodeResponse(Command.GET_ALIGNMENT, { alignmentBytes: 32n }),
  [Command.GET_MAX_SIZE]: () =>
    encodeResponse(Command.GET_MAX_SIZE, { maxSizeBytes: 2n ** 64n - 1n }),
  [Command.GET_DEVICE_MEMORY]: () =>
    encodeResponse(Command.GET_DEVICE_MEMORY, { freeBytes: 512n * MIB, totalBytes: 1024n * MIB }),
}

/**
 * Starts it on a free port; what `answers` does not name, it is silent about. It reads what comes as a version's requests, and
 * hangs up on what is none.
 */
export const startFakeServer = (answers: Answers, spec: ProtocolSpec = newest): FakeServer => {
  const commands: Array<number> = []
  const listener: TCPSocketListener<Connection> = Bun.listen<Connection>({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open(socket) {
        const onCommand = (command: number, payload: Uint8Array = new Uint8Array(0)): void => {
          commands.push(command)
          const answer = answers[command]?.(payload) ?? "nothing"
          if (answer === "close") socket.end()
          else if (typeof answer === "object" && "last" in answer) socket.end(answer.last)
          else if (answer instanceof Promise) void answer.then((bytes) => socket.write(bytes))
          else if (answer !== "nothing") socket.write(answer)
        }
        const sink = {
          message: onCommand,
          streamStart() {},
          streamData() {},
          streamEnd: (command: number) => onCommand(command),
        }
        const decoder = new RequestDecoder(sink, { spec })
        socket.data = { decoder, tell: onCommand }
      },
      data(socket, bytes) {
        const [command = 0] = bytes
        // One of this project's comes alone, as each of them waits for its answer.
        if (socket.data.decoder.idle && command >= FIRST_EXTENSION) {
          socket.data.tell(command, bytes.subarray(REQUEST_HEADER_SIZE_BYTES))
          return
        }
        try {
          socket.data.decoder.push(bytes)
        } catch {
          socket.end()
        }
      },
      error() {},
    },
  })
  return {
    endpoint: `127.0.0.1:${listener.port}`,
    port: listener.port,
    commands,
    [Symbol.dispose]: () => listener.stop(true),
  }
}

// Bun's own listeners take no backlog.
const listenWithoutAccepting = `
  require("node:net").createServer().listen({ host: "127.0.0.1", port: 0, backlog: 1 }, function () {
    require("node:fs").writeSync(1, this.address().port + "\\n")
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
  })`

/** A port that swallows connections as a firewall does: its queue is full, and nobody accepts. */
export const startSilentPort = async (): Promise<
  { readonly endpoint: string } & AsyncDisposable
> => {
  const child = startProcess(["node", "-e", listenWithoutAccepting])
  await waitUntil(() => child.stdout().endsWith("\n"), 10_000)
  const port = Number(child.stdout())
  for (let count = 0; count < 4; count++) {
    // Those that get through fill the queue; all end with the process.
    void Bun.connect({ hostname: "127.0.0.1", port, socket: { data() {} } }).catch(() => {})
  }
  await Bun.sleep(50)
  return { endpoint: `127.0.0.1:${port}`, [Symbol.asyncDispose]: () => child.stop() }
}
