/** What no other server has: the page, and what it shows of the cluster. */
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import { clusterEndpoint } from "./cluster.ts"
import { pageEndpoint } from "./page.ts"

export class OwnApi extends HttpApiGroup.make("own", { topLevel: true })
  .add(pageEndpoint)
  .add(clusterEndpoint) {}
