// Who answers a chat: OpenAI's API where a gateway has it, else the inference service itself.

import { ask, callError, callStream, callUnary, getJson } from "./calls.js";
import { readEvents } from "./sse.js";

export const INFERENCE = "protoplane.inference.v1.InferenceService";
export const GATEWAY = "protoplane.gateway.v1.GatewayService";

/**
 * The source that an instance has, or null.
 *
 * A source has `name`, `models()` and `say(messages, settings, signal)`, which yields pieces:
 * `{text}`, `{usage: {prompt, completion}}` and `{reason}`.
 */
export function chatSource(app) {
  if (app.serves(GATEWAY)) return openai;
  return app.serves(INFERENCE) ? inference : null;
}

const openai = {
  name: "/v1/chat/completions",
  async models() {
    const { data } = await getJson("/v1/models");
    return data.map(({ id }) => id);
  },
  async* say(messages, { model, temperature, maxTokens }, signal) {
    const response = await ask("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      signal,
      body: JSON.stringify({
        model, messages, stream: true, stream_options: { include_usage: true },
        ...(temperature !== undefined && { temperature }), ...(maxTokens && { max_tokens: maxTokens }),
      }),
    });
    for await (const { data } of readEvents(response.body)) {
      if (data === "[DONE]") return;
      if (data === undefined) continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw callError(chunk);
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) yield { text: choice.delta.content };
      if (choice?.finish_reason) yield { reason: choice.finish_reason };
      if (chunk.usage) {
        yield { usage: { prompt: chunk.usage.prompt_tokens, completion: chunk.usage.completion_tokens } };
      }
    }
    throw callError({ code: "unavailable", message: "the answer broke off before its end" });
  },
};

const inference = {
  name: `${INFERENCE}/Generate`,
  async models() {
    const { models = [] } = await callUnary(`/${INFERENCE}/ListModels`, "{}");
    return models.filter((each) => (each.capabilities ?? []).includes("CAPABILITY_GENERATE")).map((each) => each.name);
  },
  async* say(messages, { model, temperature, maxTokens }, signal) {
    const request = { model, conversation: { messages }, sampling: { temperature, maxTokens: maxTokens || undefined } };
    for await (const { text, finishReason, usage } of callStream(`/${INFERENCE}/Generate`, JSON.stringify(request), { signal })) {
      if (text) yield { text };
      if (finishReason) yield { reason: finishReason.replace("FINISH_REASON_", "").toLowerCase() };
      if (usage) yield { usage: { prompt: usage.promptTokens ?? 0, completion: usage.completionTokens ?? 0 } };
    }
  },
};
