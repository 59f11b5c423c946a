// What a Node program does with @clickhouse/client: address, user, password and the module's folder as arguments.
// Prints what it found, as one JSON object.
import { createRequire } from "node:module";

const [url, username, password, modules] = process.argv.slice(2);
const { createClient } = createRequire(`${modules}/`)("@clickhouse/client");
const client = createClient({ url, username, password, database: "fieldline" });
const found = { ping: (await client.ping()).success };

async function rows(query, query_params) {
  const result = await client.query({ query, query_params, format: "JSONEachRow" });
  return result.json();
}

async function refusal(work) {
  try {
    await work();
    return "";
  } catch (error) {
    return `${error.code}: ${error.message}`;
  }
}

found.selected = await rows("SELECT {n:UInt32} + 1 AS n, {text:String} AS text", { n: 4, text: "it's\t{x}" });
found.insert = await refusal(() =>
  client.insert({ table: "node", values: [{ a: 1 }, { a: 2 }], format: "JSONEachRow" }),
);
found.inserted = (await rows("SELECT sum(a) AS total FROM node"))[0].total;
found.streamed = 0;
const streamed = await client.query({ query: "SELECT number FROM numbers(9000)", format: "JSONEachRow" });
for await (const block of streamed.stream()) {
  found.streamed += block.length;
}
found.error = await refusal(() => rows("SELECT nope FROM node"));
await client.close();
console.log(JSON.stringify(found));
