// What local-slack's page lacks and Slack has: a file field, number, multi-select and channel fields, initial values,
// required fields, confirm dialogs, tables, fenced text, ephemerals that only their user sees, and text as it was meant
// (escaped signs, dates, indents), and links to messages, which it scrolls to. It wraps the page's websocket and adds to the
// page's own elements; it draws no other blocks.
(() => {
  "use strict";
  const OURS = [
    "file_input", "number_input", "multi_static_select", "conversations_select", "channels_select", "users_select",
  ];
  const SIGNS = { "&lt;": "<", "&gt;": ">", "&amp;": "&" };
  const DATE = /<!date\^(\d+)\^([^|>]*)\|[^>]*>/g;
  const LARGEST = 10 * 1024 * 1024;
  const blocksOf = new Map(); // message ts -> blocks
  const onlyFor = new Map(); // message ts -> user id
  let workspace = { users: [], channels: [], apps: [] };
  let stack = [];
  let homes = {};
  let filled = {}; // block_id -> state of one of our controls
  let waiting = []; // uploads under way

  const Native = window.WebSocket;
  window.WebSocket = class extends Native {
    constructor(...args) {
      super(...args);
      this.addEventListener("message", (event) => note(JSON.parse(event.data)));
    }
    send(text) {
      const message = JSON.parse(text);
      const go = () => super.send(JSON.stringify(message));
      if (message.t === "view_submit") submit(message, go);
      else if (message.t === "block_action") confirmed(message, go);
      else go();
    }
  };

  function note(message) {
    if (message.t === "init") {
      workspace = message.state;
      stack = message.state.modalStack;
      homes = message.state.homeViews;
      Object.values(message.state.messages).flat().forEach(remember);
    }
    if (message.t === "message" || message.t === "message_update") remember(message.message);
    if (message.t === "home") (homes[message.user] ??= {})[message.appId] = message.view;
    if (message.t === "view") {
      if (message.stack.at(-1)?.id !== stack.at(-1)?.id) filled = {};
      stack = message.stack;
    }
  }

  function remember(message) {
    blocksOf.set(message.ts, message.blocks ?? []);
    if (message.ephemeral_to) onlyFor.set(message.ts, message.ephemeral_to);
  }

  const actingUser = () => [...document.querySelectorAll(".actas select")].at(-1)?.value ?? "";
  const inputs = () => (stack.at(-1)?.blocks ?? []).filter((block) => block.type === "input");

  // --- submitting a modal

  async function submit(message, go) {
    await Promise.all(waiting);
    const missing = [];
    for (const { block_id: block, element, optional } of inputs()) {
      const state = filled[block] ?? message.values[block]?.[element.action_id] ?? initial(element);
      if (state) (message.values[block] ??= {})[element.action_id] = state;
      if (!optional && !hasValue(state)) missing.push(block);
    }
    inputs().forEach((block, at) => complain(at, missing.includes(block.block_id) ? "Please complete this required field." : ""));
    if (!missing.length) go();
  }

  function initial(element) {
    const { type, initial_value: value, initial_option: option, initial_options: options } = element;
    if (value !== undefined) return { type, value };
    if (option) return { type, selected_option: option };
    if (options) return { type, selected_options: options };
    return undefined;
  }

  function hasValue(state) {
    const value = Object.entries(state ?? {}).find(([key]) => key !== "type")?.[1];
    return Array.isArray(value) ? value.length > 0 : Boolean(value);
  }

  function complain(at, words) {
    const field = document.querySelectorAll(".modal .bk-input")[at];
    field?.querySelector(".ours-complaint")?.remove();
    if (field && words) field.append(made("div", "ours-complaint modal-error", words));
  }

  // --- confirm dialogs

  function confirmed(message, go) {
    const blocks = message.messageTs ? blocksOf.get(message.messageTs) : homes[message.user]?.[message.appId]?.blocks;
    const { action_id: name, value } = message.action;
    const all = (blocks ?? []).flatMap((block) => [block.accessory, ...(block.elements ?? [])]);
    const element = all.find((one) => one?.action_id === name && (one.value ?? value) === value);
    if (element?.confirm) ask(element.confirm, go);
    else go();
  }

  function ask(confirm, go) {
    const dialog = made("dialog", "ours-confirm");
    const button = (words, look, then) => {
      const one = made("button", `modal-btn ${look}`, words);
      one.onclick = () => (dialog.remove(), then());
      return one;
    };
    const foot = made("div", "modal-foot");
    foot.append(button(confirm.deny.text, "", () => {}), button(confirm.confirm.text, "primary", go));
    dialog.append(made("h3", "", confirm.title.text), made("p", "", confirm.text.text.replaceAll("*", "")), foot);
    document.body.append(dialog);
    dialog.showModal();
  }

  // --- our controls in the page's fields

  function dress() {
    document.querySelectorAll(".msg[data-ts]").forEach((row) => {
      const whom = onlyFor.get(row.dataset.ts);
      row.style.display = whom && whom !== actingUser() ? "none" : "";
      const shown = row.querySelector(".blocks")?.children ?? [];
      (blocksOf.get(row.dataset.ts) ?? []).forEach((block, at) => shown[at] && (drawTable(shown[at], block), drawFenced(shown[at], block)));
    });
    document.querySelectorAll(".mrkdwn").forEach(unescape);
    const composer = document.querySelector(".main .composer-input");
    if (composer?.placeholder.includes("/echo hi")) composer.placeholder = composer.placeholder.replace("/echo hi", "/finetune help");
    const fields = document.querySelectorAll(".modal .bk-input");
    inputs().forEach((block, at) => fields[at] && dressField(fields[at], block));
  }

  // The page escapes again what the bot had to escape: a person would read &lt;.
  function unescape(text) {
    if (text.dataset.ours === text.textContent) return;
    const nodes = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
    while (nodes.nextNode()) {
      // Dates first: what a person typed may look like one once its signs are unescaped.
      const dated = nodes.currentNode.data.replace(DATE, (mark, seconds, form) => dateText(new Date(1000 * seconds), form));
      nodes.currentNode.data = dated.replace(/&(lt|gt|amp);/g, (sign) => SIGNS[sign]);
    }
    text.dataset.ours = text.textContent;
  }

  // The forms that the bot uses, of those that Slack knows.
  function dateText(at, form) {
    const day = at.toLocaleDateString("en-US", { month: "short", day: "numeric", year: "numeric" });
    const isToday = at.toDateString() === new Date().toDateString();
    const forms = {
      date_short: day,
      date_short_pretty: isToday ? "Today at" : day,
      time: at.toLocaleTimeString("en-US", { hour: "numeric", minute: "2-digit" }),
      time_secs: at.toLocaleTimeString("en-US"),
    };
    return form.replace(/\{(\w+)\}/g, (token, name) => forms[name] ?? token);
  }

  function drawTable(place, block) {
    if (!["table", "data_table"].includes(block.type) || !place.matches(".bk-unknown")) return;
    const mark = JSON.stringify(block);
    if (place.dataset.ours === mark) return;
    place.dataset.ours = mark;
    place.querySelector("table")?.remove();
    const table = made("table", "ours-table");
    if (block.caption) table.append(made("caption", "", block.caption));
    block.rows.forEach((cells, row) => {
      const line = table.insertRow();
      cells.forEach((cell, at) => {
        const box = made(row ? "td" : "th", "", cell.type === "rich_text" ? richText(cell) : cell.text);
        box.style.textAlign = block.column_settings?.[at]?.align ?? (cell.type === "raw_number" ? "right" : "left");
        line.append(box);
      });
    });
    place.append(table);
  }

  // Columns of text stand between three backticks, and nothing else in the section.
  function drawFenced(place, block) {
    const fenced = /^```\n?([^]*?)\n?```$/.exec(block.text?.text ?? "");
    if (!fenced || block.type !== "section" || place.querySelector(".ours-fenced")) return;
    const words = fenced[1].replace(/&(lt|gt|amp);/g, (sign) => SIGNS[sign]);
    place.replaceChildren(made("pre", "ours-fenced", words));
  }

  const richText = (node) => node.text ?? (node.elements ?? []).map(richText).join("");

  function dressField(field, block) {
    const mark = `${stack.at(-1).id}/${block.block_id}`;
    if (field.dataset.ours === mark) return;
    field.dataset.ours = mark;
    field.querySelectorAll(".ours-control, .ours-complaint").forEach((old) => old.remove());
    if (OURS.includes(block.element.type)) {
      field.querySelectorAll(".bk-unknown, .bk-select").forEach((theirs) => (theirs.style.display = "none"));
      field.querySelector(".bk-label").after(control(field, block));
    } else chooseInitial(field, block.element);
  }

  function chooseInitial(field, element) {
    const ticked = (element.type === "checkboxes" && element.initial_options) || [];
    ticked.forEach((one) => {
      const box = field.querySelectorAll("input[type=checkbox]")[element.options.findIndex((option) => option.value === one.value)];
      if (box && !box.checked) box.click();
    });
    const value = element.initial_option?.value;
    const select = field.querySelector("select");
    if (value && select) {
      select.value = value;
      select.dispatchEvent(new Event("change", { bubbles: true }));
    } else if (value) {
      const at = element.options.findIndex((option) => option.value === value);
      field.querySelectorAll("input[type=radio]")[at]?.click();
    }
  }

  function control(field, block) {
    const { type } = block.element;
    if (type === "file_input") return fileControl(field, block);
    if (type === "number_input") return numberControl(block);
    if (type === "multi_static_select") return severalControl(block);
    return placeControl(block);
  }

  function fileControl(field, { block_id: block, element }) {
    const input = made("input", "ours-control");
    input.type = "file";
    input.multiple = (element.max_files ?? 10) > 1;
    input.accept = (element.filetypes ?? []).map((kind) => `.${kind}`).join(",");
    input.onchange = () => {
      const files = [...input.files];
      const large = files.some((file) => file.size > LARGEST);
      const at = [...document.querySelectorAll(".modal .bk-input")].indexOf(field);
      complain(at, large ? "Please choose a file of at most 10 MB." : "");
      filled[block] = { type: "file_input", files: [] };
      if (large) return void (input.value = "");
      waiting.push(Promise.all(files.map(upload)).then((files) => (filled[block] = { type: "file_input", files })));
    };
    return input;
  }

  async function upload(file) {
    const asked = new URLSearchParams({ filename: file.name, length: file.size });
    const place = await (await fetch(`/api/files.getUploadURLExternal?${asked}`)).json();
    await fetch(new URL(place.upload_url).pathname, { method: "POST", body: file });
    const body = JSON.stringify({ files: [{ id: place.file_id }] });
    const headers = { "content-type": "application/json" };
    const done = await fetch("/api/files.completeUploadExternal", { method: "POST", headers, body });
    return { ...(await done.json()).files[0], user: actingUser() };
  }

  function numberControl({ block_id: block, element }) {
    const input = made("input", "ours-control bk-plain-input");
    input.inputMode = "decimal";
    input.value = element.initial_value ?? "";
    input.oninput = () => (filled[block] = { type: "number_input", value: input.value || null });
    return input;
  }

  function severalControl({ block_id: block, element }) {
    const select = made("select", "ours-control bk-select");
    const chosen = (element.initial_options ?? []).map((option) => option.value);
    select.multiple = true;
    select.size = Math.max(2, Math.min(element.options.length, 4));
    for (const { text, value } of element.options) {
      const option = made("option", "", text.text);
      [option.value, option.selected] = [value, chosen.includes(value)];
      select.append(option);
    }
    const keep = () => {
      const values = [...select.selectedOptions].map((option) => option.value);
      const options = element.options.filter((option) => values.includes(option.value));
      filled[block] = { type: element.type, selected_options: options };
    };
    select.onchange = keep;
    keep();
    return select;
  }

  function placeControl({ block_id: block, element }) {
    const what = element.type.replace("_select", "").replace(/s$/, "");
    const select = made("select", "ours-control bk-select");
    const people = workspace.users.filter((user) => !user.is_bot).map((user) => [user.id, user.real_name]);
    const places = workspace.channels.filter((one) => !one.is_im).map((one) => [one.id, `#${one.name}`]);
    for (const [value, words] of [["", "Select"], ...(what === "user" ? people : places)]) {
      const option = made("option", "", words);
      option.value = value;
      select.append(option);
    }
    const shown = document.querySelector(".sidebar-item.active")?.textContent ?? "";
    const current = workspace.channels.find((one) => shown.endsWith(one.name))?.id;
    const here = element.default_to_current_conversation ? current : "";
    select.value = element[`initial_${what}`] ?? here ?? "";
    const keep = () => (filled[block] = { type: element.type, [`selected_${what}`]: select.value || null });
    select.onchange = keep;
    keep();
    return select;
  }

  // --- links to messages

  function follow(event) {
    const at = event.target.closest?.('a[href*="/archives/"]')?.href.match(/\/p(\d+)(\d{6})/);
    if (!at) return;
    event.preventDefault();
    document.querySelector(`.msg[data-ts="${at[1]}.${at[2]}"]`)?.scrollIntoView({ block: "center" });
  }

  function made(tag, look, words) {
    const element = document.createElement(tag);
    element.className = look;
    if (words) element.textContent = words;
    return element;
  }

  document.addEventListener("DOMContentLoaded", () => {
    const style = made("style", "", ".msg{overflow-wrap:anywhere}.mrkdwn{white-space:pre-wrap}.thread-pane{min-width:420px}.ours-confirm{border:0;border-radius:8px;padding:20px 24px;max-width:440px;color:#1d1c1d}.ours-confirm h3{margin:0}.ours-confirm p{white-space:pre-line}.ours-confirm::backdrop{background:#0008}.ours-control{margin:4px 0}.ours-fenced{font:12px/1.5 Menlo,Consolas,monospace;background:#f8f8f8;border:1px solid #ddd;border-radius:4px;padding:8px;margin:4px 0;overflow-x:auto;width:fit-content;max-width:100%;box-sizing:border-box}.bk-unknown:has(.ours-table){font-size:0}.ours-table{font-size:14px;color:#1d1c1d;border-collapse:collapse;margin:6px 0}.ours-table th,.ours-table td{border:1px solid #ddd;padding:4px 12px}.ours-table th{background:#f6f6f6}.ours-table caption{text-align:left;padding:2px 0;color:#616061}");
    document.head.append(style);
    new MutationObserver(dress).observe(document.body, { childList: true, subtree: true });
    document.addEventListener("change", () => setTimeout(dress, 0));
    document.addEventListener("click", follow, true);
  });
})();
