import type { SandboxReport } from "../session/sandbox.ts"

/** What a session process lives in, as the banner has it; `report` is absent when it was told not to give anything up, `folders` are those it goes on using. */
export const describeSandbox = (
  report: SandboxReport | undefined,
  folders: readonly string[],
): string => {
  if (report === undefined) return "guarded buffers only (--no-sandbox)"
  const given = [
    "guarded buffers",
    ...(report.calls ? ["no new programs"] : []),
    ...(report.landlock > 0 ? [`${files(report, folders)} (Landlock ${report.landlock})`] : []),
    ...(report.calls ? [report.makesCommLinks ? "sockets for links only" : "no new sockets"] : []),
    ...(report.memory ? ["limited memory"] : []),
  ]
  const missing = report.problems.length === 0 ? "" : `; not here: ${report.problems.join(", ")}`
  return given.join(", ") + missing
}

const files = ({ hasDrivers }: SandboxReport, folders: readonly string[]): string => {
  const places = [...folders, ...(hasDrivers ? ["drivers"] : [])]
  return places.length === 0 ? "no files" : `files limited to ${places.join(" and ")}`
}
