/**
 * A bad network between a client and a server on this machine: a TCP relay that delays, cuts bytes into
 * small pieces, stops passing them on, or breaks the connection.
 */
import { Command, ExtensionCommand, REQUEST_HEADER_SIZE_BYTES } from "@ggml-rpc/protocol"
import type { Socket, TCPSocketListener } from "bun"

export interface NetworkOptions {
  /** Added to each direction. */
  readonly delayMs?: number
  /** Most bytes passed on at a time; default: as they come. */
  readonly pieceBytes?: number
  /** Breaks every connection once so many bytes went from the client to the server. */
  readonly breakAfterBytes?: number
  /** Called when a graph is about to reach the server; it and what follows pass once `go` is called. */
  readonly onGraph?: (go: () => void) => void
}

export interface Network extends Disposable {
  /** `127.0.0.1:port`; what connects there reaches the server. */
  readonly endpoint: string
  /** Bytes from clients to the server so far. */
  readonly uploadedBytes: () => number
  /** Breaks all connections, with a reset. */
  readonly breakAll: () => void
  /** Passes nothing on from now on; the connections stay. */
  readonly stall: () => void
  /** The connections of other servers that add up with the server. */
  readonly links: {
    readonly breakAll: () => void
    readonly stall: () => void
    /** Has the server say this besides what it says. */
    readonly inject: (bytes: Uint8Array) => void
  }
}

/** Cuts a stream of requests where a graph begins. */
class GraphFinder {
  #header: number[] = []
  #payloadLeft = 0

  /** The bytes in pieces, with `graph` in front of each header of a graph. */
  cut(bytes: Uint8Array, graph: Uint8Array): Uint8Array[] {
    const pieces: Uint8Array[] = []
    for (let at = 0; at < bytes.length; ) {
      if (this.#payloadLeft > 0) {
        const size = Math.min(this.#payloadLeft, bytes.length - at)
        pieces.push(bytes.subarray(at, at + size))
        this.#payloadLeft -= size
        at += size
        continue
      }
      this.#header.push(bytes[at++]!)
      if (this.#header.length < REQUEST_HEADER_SIZE_BYTES) continue
      const header = Uint8Array.from(this.#header)
      this.#header = []
      this.#payloadLeft = Number(new DataView(header.buffer).getBigUint64(1, true))
      const isGraph = header[0] === Command.GRAPH_COMPUTE || header[0] === Command.GRAPH_RECOMPUTE
      pieces.push(...(isGraph ? [graph] : []), header)
    }
    return pieces
  }
}

/** In a line: what follows waits until it may pass. */
const GRAPH = new Uint8Array(0)

/** One direction of one connection: passes bytes on in order, each not before its time. */
class Line {
  readonly #options: NetworkOptions
  readonly #target: () => Socket<unknown> | undefined
  readonly #graphs: GraphFinder | undefined
  #waiting: Uint8Array[] = []
  isStalled = false

  constructor(
    options: NetworkOptions,
    target: () => Socket<unknown> | undefined,
    hasRequests: boolean,
  ) {
    this.#options = options
    this.#target = target
    this.#graphs = hasRequests && options.onGraph !== undefined ? new GraphFinder() : undefined
  }

  push(bytes: Uint8Array): void {
    const copy = Uint8Array.from(bytes)
    const { delayMs } = this.#options
    if (delayMs === undefined) this.#enqueue(copy)
    else setTimeout(() => this.#enqueue(copy), delayMs)
  }

  #enqueue(bytes: Uint8Array): void {
    for (const piece of this.#graphs?.cut(bytes, GRAPH) ?? [bytes]) this.#cut(piece)
    this.drain()
  }

  #cut(bytes: Uint8Array): void {
    if (bytes === GRAPH) this.#waiting.push(GRAPH)
    const size = this.#options.pieceBytes ?? bytes.length
    for (let at = 0; at < bytes.length; at += size) {
      this.#waiting.push(bytes.subarray(at, at + size))
    }
  }

  drain(): void {
    const target = this.#target()
    while (!this.isStalled && target !== undefined && this.#waiting.length > 0) {
      const bytes = this.#waiting[0]!
      if (bytes === GRAPH) {
        this.#waiting.shift()
        this.#holdGraph()
        continue
      }
      const written = Math.max(0, target.write(bytes))
      if (this.#options.pieceBytes !== undefined) target.flush()
      if (written < bytes.length) {
        this.#waiting[0] = bytes.subarray(written)
        return
      }
      this.#waiting.shift()
    }
  }

  #holdGraph(): void {
    this.isStalled = true
    this.#options.onGraph!(() => {
      this.isStalled = false
      this.drain()
    })
  }
}

class Connection {
  readonly client: Socket<Connection>
  server: Socket<Connection> | undefined
  /** By its first byte. */
  isLink: boolean | undefined
  readonly up: Line
  readonly down: Line

  constructor(client: Socket<Connection>, options: NetworkOptions) {
    this.client = client
    this.up = new Line(options, () => this.server, true)
    this.down = new Line(options, () => this.client, false)
  }

  stall(): void {
    this.up.isStalled = this.down.isStalled = true
  }

  break(): void {
    this.client.terminate()
    this.server?.terminate()
  }
}

/** Starts a relay to a port of this machine. */
export const startNetwork = (port: number, options: NetworkOptions = {}): Network => {
  const connections = new Set<Connection>()
  let uploadedBytes = 0
  let isStalled = false
  const end = (connection: Connection | undefined): void => {
    if (connection === undefined) return
    connections.delete(connection)
    connection.client.end()
    connection.server?.end()
  }
  const connect = (connection: Connection): void => {
    void Bun.connect<Connection>({
      hostname: "127.0.0.1",
      port,
      data: connection,
      allowHalfOpen: true,
      socket: {
        open(server) {
          connection.server = server
          server.setNoDelay(true)
          connection.up.drain()
        },
        data: (_server, bytes) => connection.down.push(bytes),
        drain: () => connection.up.drain(),
        end: () => end(connection),
        close: () => end(connection),
        error: () => end(connection),
      },
    }).catch(() => connection.break())
  }
  const listener: TCPSocketListener<Connection> = Bun.listen<Connection>({
    hostname: "127.0.0.1",
    port: 0,
    allowHalfOpen: true,
    socket: {
      open(client) {
        const connection = new Connection(client, options)
        connection.up.isStalled = connection.down.isStalled = isStalled
        client.data = connection
        client.setNoDelay(true)
        connections.add(connection)
        connect(connection)
      },
      data(client, bytes) {
        client.data.isLink ??= bytes[0] === ExtensionCommand.LINK_KEY
        uploadedBytes += bytes.length
        if (uploadedBytes > (options.breakAfterBytes ?? Number.POSITIVE_INFINITY)) {
          client.data.break()
        } else {
          client.data.up.push(bytes)
        }
      },
      drain: (client) => client.data.down.drain(),
      // A client that sends no more may still be told something.
      end: (client) => client.data.server?.shutdown(),
      close: (client) => end(client.data),
      error: (client) => end(client.data),
    },
  })
  const links = (): ReadonlyArray<Connection> => [...connections].filter(({ isLink }) => isLink)
  const breakAll = (): void => {
    for (const connection of connections) connection.break()
    connections.clear()
  }
  return {
    endpoint: `127.0.0.1:${listener.port}`,
    uploadedBytes: () => uploadedBytes,
    breakAll,
    stall: () => {
      isStalled = true
      for (const connection of connections) connection.stall()
    },
    links: {
      breakAll: () => {
        for (const link of links()) link.break()
      },
      stall: () => {
        for (const link of links()) link.stall()
      },
      inject: (bytes) => {
        for (const link of links()) link.down.push(bytes)
      },
    },
    [Symbol.dispose]: () => {
      breakAll()
      listener.stop(true)
    },
  }
}
