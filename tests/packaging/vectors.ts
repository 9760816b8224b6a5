/** The protocol's vectors as a program for other runtimes, with the protocol from where it is installed. */
import { join } from "node:path"
import type { BuildOutput } from "bun"

const protocol = join(import.meta.dir, "..", "..", "packages", "protocol")

/**
 * A bundle of the vectors' test that reports its summary by `report`; `installedEntry` stands for the package's sources.
 *
 * @param target for "node" the package stays an import
 */
export const bundleVectors = async (
  target: "node" | "browser",
  installedEntry: string,
): Promise<string> => {
  const entry = join(protocol, "src", "vectors.test.ts")
  const built: BuildOutput = await Bun.build({
    entrypoints: [entry],
    target,
    format: target === "node" ? "esm" : "iife",
    external: target === "node" ? ["@ggml-rpc/protocol"] : [],
    plugins: [
      {
        name: "installed",
        setup: (build) => {
          build.onLoad({ filter: /\/vectors\.test\.ts$/ }, async ({ path }) => ({
            contents: `${await Bun.file(path).text()}\nimport { summary } from "bun:test"\nreport(summary())`,
            loader: "ts",
          }))
          build.onResolve({ filter: /^bun:test$/ }, () => ({
            path: join(import.meta.dir, "nodeTest.ts"),
          }))
          build.onResolve({ filter: /^(\.\/|\.\.\/src\/)index\.ts$/ }, () =>
            target === "node"
              ? { path: "@ggml-rpc/protocol", external: true }
              : { path: installedEntry },
          )
        },
      },
    ],
  })
  return await built.outputs[0]!.text()
}
