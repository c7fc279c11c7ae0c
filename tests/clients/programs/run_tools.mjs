// openai-node: runTools, which calls the function and continues, at once and streamed, and responses.create.
import { createRequire } from "node:module";

const OpenAI = createRequire(`${process.cwd()}/`)("openai");
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const messages = [{ role: "user", content: "What is the weather in Paris?" }];

async function useServer({ url, key }) {
  const client = new OpenAI({ baseURL: url, apiKey: key, maxRetries: 0 });
  const cities = [];
  const getWeather = ({ city }) => (cities.push(city), "sunny");
  const tools = [
    { type: "function", function: { name: "get_weather", parameters, parse: JSON.parse, function: getWeather } },
  ];
  const answers = [];
  for (const stream of [false, true])
    answers.push(await client.chat.completions.runTools({ model: "scripted", messages, tools, stream }).finalContent());
  const response = await client.responses.create({ model: "scripted", input: "Hello" });
  return { cities, answers, response: response.output_text };
}

const results = [];
for (const server of JSON.parse(process.argv[2])) results.push(await useServer(server));
console.log(JSON.stringify(results));
