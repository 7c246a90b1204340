"use strict";
// The review page. Texts are data: they reach the page as text nodes, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const SPOKEN = ["de", "fr", "it", "rm", "en"];
  const STATUS = { missing: "missing", official: "only_official", partly: "partly", found: "found" };
  const SIGNS = { missing: "✗", official: "○", partly: "~", found: "✓" };
  const CONTROL =
    /([\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}])/u;

  // What the page says, in the reader's language

  const LANGUAGE = "slds-review:language"; // the same for all pages of this browser
  let spoken = "en";

  /** What the page says under this name, values put in. */
  const text = (name, values = {}) => data.texts[spoken][name].replace(/\{(\w+)\}/g, (_, value) => values[value]);

  function speakTo(language) {
    spoken = language;
    document.documentElement.lang = language;
    at("language").value = language;
    for (const node of document.querySelectorAll("[data-text]")) node.textContent = text(node.dataset.text);
    for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", text(node.dataset.label));
  }

  /** What the reader chose last, else the browser's language. */
  function preferred() {
    const own = [remembered(LANGUAGE), ...navigator.languages.map((name) => name.slice(0, 2))];
    return own.find((name) => name in data.texts) ?? "en";
  }

  function remembered(name) {
    try {
      return localStorage.getItem(name) ?? "";
    } catch {
      return "";
    }
  }

  function remember(name, value) {
    try {
      localStorage.setItem(name, value);
    } catch {
      store.fail();
    }
  }

  // Text and nodes

  const code = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  const lines = (text) => text.replace(/\r\n?/g, "\n");

  /** Plain text in which control characters are shown instead of obeyed. */
  const plain = (text) =>
    lines(String(text)).split(CONTROL).map((part, i) => (i % 2 ? `[${code(part)}]` : part)).join("");

  /** The nodes for a text; a control character becomes a small box with its number. */
  const nodes = (text) =>
    lines(text).split(CONTROL).map((part, i) => (i % 2 ? make("span", { className: "control" }, code(part)) : part));

  function make(tag, properties, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties ?? {})) {
      if (name.includes("-")) node.setAttribute(name, value);
      else if (value !== undefined) node[name] = value;
    }
    node.append(...children);
    return node;
  }

  const speak = (node, language) =>
    SPOKEN.includes(language) ? node.setAttribute("lang", language) : node.removeAttribute("lang");
  const named = (language) => (SPOKEN.includes(language) ? text(language) : plain(language ?? text("unknown")));
  const number = (value) => value.toLocaleString(spoken);
  const counted = (count, noun) => `${number(count)} ${text(`${noun}_${count === 1 ? "one" : "other"}`)}`;
  const joined = (segments) => segments.map((one) => (typeof one === "string" ? one : one.text)).join("");

  // What is known of each headnote

  const items = data.items.map((item) => ({
    ...item,
    from: data.decisions[item.decision].lang,
    key: JSON.stringify([item.sample, item.lang, item.candidate ?? 1, ...(item.file ? [item.file] : [])]),
    missing: Object.values(item.citations).filter((status) => status === "missing").length,
    unsupported: item.evidence.filter((one) => !one.places.length).length,
    misplaced: item.evidence.filter((one) => one.wrong.length).length,
    words: joined(item.headnote),
  }));
  const decisionTexts = data.decisions.map(() => null); // in lower case, once they are searched
  const pairOf = (item) => `${item.from ?? "?"} → ${item.lang}`;
  const fileOf = (item) => (data.blind ? item.letter : plain(item.file));
  const versionsBeside = (item) => items.filter((one) => one !== item && one.row === item.row);
  const compared = items.some((item) => item.file);
  const titleOf = (item) => plain(item.name) + (compared ? ` · ${fileOf(item)}` : "") +
    (item.candidate && !data.blind ? `, ${text("candidate", { n: item.candidate })}` : "");
  const scoreName = () => (data.score === "ROUGE-L" ? data.score : text("overlap"));
  const shownScore = (value) => (value === null ? "–" : value.toFixed(1));

  function searched(item) {
    decisionTexts[item.decision] ??= data.decisions[item.decision].paragraphs.map(joined).join("").toLowerCase();
    item.folded ??= [item.sample, item.name, item.area, item.year, item.words, joined(item.reference)]
      .filter(Boolean).join("\n").toLowerCase();
    return [item.folded, decisionTexts[item.decision]];
  }

  // Marks, kept by the browser under the hash of the predictions

  const store = {
    name: `slds-review:${data.digest}`,
    marks: {},
    load() {
      try {
        this.marks = JSON.parse(localStorage.getItem(this.name) ?? "{}") ?? {};
      } catch {
        this.fail();
      }
    },
    set(item, change) {
      this.load(); // another tab may have written
      const changed = { mark: null, comment: "", ...this.marks[item.key], ...change, at: new Date().toISOString() };
      if (changed.mark || changed.comment) this.marks[item.key] = changed;
      else delete this.marks[item.key];
      try {
        localStorage.setItem(this.name, JSON.stringify(this.marks));
      } catch {
        this.fail();
      }
    },
    get(item) {
      return this.marks[item.key] ?? { mark: null, comment: "" };
    },
    fail() {
      notify(text("keeps_nothing"));
    },
  };

  const marksOfOthers = (item) =>
    data.reviewers.filter(({ marks }) => item.key in marks).map(({ name, marks }) => ({ name, ...marks[item.key] }));

  function notify(message) {
    at("notice").textContent = message;
    at("notice").hidden = false;
  }

  const NAME = "slds-review:reviewer"; // the same for all pages of this browser

  function marksToExport() {
    return items.filter((item) => item.key in store.marks).map((item) => {
      const { mark, comment, at: marked_at } = store.get(item);
      const named = { sample_id: item.sample, decision_id: item.decision_id, lang: item.lang, candidate: item.candidate ?? 1 };
      const of = compared ? { predictions: item.file, ...(data.blind ? { shown_as: item.letter } : {}) } : {};
      return { ...named, ...of, mark, comment, headnote: item.words, marked_at };
    });
  }

  /** As JSON, which `slds review --marks` reads back, or for a spreadsheet. */
  function exportMarks(form) {
    const marks = marksToExport();
    if (!marks.length) {
      notify(text("no_marks"));
      return;
    }
    const reviewer = at("reviewer").value.trim();
    const value = { predictions: data.title, sha256: data.digest, reviewer, exported_at: new Date().toISOString(), marks };
    const content = form === "csv" ? toCsv(reviewer, marks) : JSON.stringify(value, null, 2) + "\n";
    const url = URL.createObjectURL(new Blob([content], { type: form === "csv" ? "text/csv" : "application/json" }));
    at("notice").hidden = true;
    const name = [(data.blind ? "headnotes" : data.title).replace(/\.jsonl(\.gz)?$/, ""), reviewer.replace(/[^\p{L}\p{N}-]+/gu, "-")].filter(Boolean).join(".");
    make("a", { href: url, download: `${name}.marks.${form}` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  /** A table that spreadsheets open; a cell that they would take for a formula begins with an apostrophe. */
  function toCsv(reviewer, marks) {
    const cell = (value) => `"${String(value ?? "").replace(/^(?=[=+\-@\t\r])/, "'").replaceAll('"', '""')}"`;
    const columns = ["reviewer", ...Object.keys(marks[0])];
    const rows = marks.map((mark) => columns.map((name) => cell({ reviewer, ...mark }[name])).join(","));
    return `\ufeff${[columns.join(","), ...rows].join("\r\n")}\r\n`;
  }

  // The list

  let shown = []; // in the list's order
  let current = null;
  const buttons = new Map();

  const PROBLEMS = {
    unsupported: (item) => item.missing > 0,
    unfinished: (item) => ["length", "loop"].includes(item.finish),
    evidence: (item) => item.unsupported > 0,
    pointers: (item) => item.misplaced > 0,
    disagree: (item) => new Set(marksOfOthers(item).map((one) => one.mark).filter(Boolean)).size > 1,
    language: (item) => item.detected !== null && item.detected !== item.lang,
  };
  const ORDERS = {
    file: () => 0,
    lowest: (one, other) => (one.score ?? Infinity) - (other.score ?? Infinity) || 0,
    unsupported: (one, other) => other.missing - one.missing,
    evidence: (one, other) => other.unsupported - one.unsupported,
    doubt: (one, other) => (one.doubt?.mean ?? 0) - (other.doubt?.mean ?? 0),
  };

  const terms = () => at("search").value.toLowerCase().split(/\s+/).filter(Boolean);

  function matches(item, words) {
    const [pair, problem, mark] = ["pair", "problem", "mark"].map((id) => at(id).value);
    return (
      (!pair || pairOf(item) === pair) &&
      (!problem || PROBLEMS[problem](item)) &&
      (!mark || (store.get(item).mark ?? "none") === mark) &&
      (!words.length || words.every((word) => searched(item).some((one) => one.includes(word))))
    );
  }

  function drawList() {
    const words = terms();
    shown = items.filter((item) => matches(item, words)).sort(ORDERS[at("order").value]);
    buttons.clear();
    at("rows").replaceChildren(...shown.map((item) => make("li", {}, drawRow(item))));
    at("count").textContent =
      text(shown.length === items.length ? "all_shown" : shown.length ? "some_shown" : "none_shown",
        { shown: number(shown.length), headnotes: counted(items.length, "headnote"), score: scoreName() });
    if (shown.length && !shown.includes(current)) show(shown[0]);
    else highlightSearch();
  }

  function drawRow(item) {
    const words = make("span", { className: "row-words" }, plain(item.words.slice(0, 160)));
    speak(words, item.detected ?? item.lang);
    const button = make("button", { type: "button" },
      make("span", { className: "row-top" }, make("span", {}, titleOf(item)),
        make("span", { className: "score", title: scoreName() }, shownScore(item.score))),
      words, make("span", { className: "row-tags" }));
    button.addEventListener("click", () => open(item));
    buttons.set(item, button);
    if (item === current) button.setAttribute("aria-current", "true");
    drawTags(item);
    return button;
  }

  function drawTags(item) {
    const tag = (words, kind) => make("span", { className: `tag ${kind}` }, words);
    const { mark, comment } = store.get(item);
    const tags = [tag(plain(pairOf(item)), "")];
    if (item.missing) tags.push(tag(text("n_not_found", { n: item.missing }), "missing"));
    if (PROBLEMS.unfinished(item)) tags.push(tag(text(item.finish === "loop" ? "repeats" : "unfinished"), "partly"));
    if (PROBLEMS.language(item)) tags.push(tag(text("in_language", { language: named(item.detected) }), "partly"));
    if (mark) tags.push(tag(`${{ good: "✓", wrong: "✗", unsure: "?" }[mark]} ${text(mark)}`, mark));
    if (comment) tags.push(tag(text("has_comment"), ""));
    buttons.get(item)?.querySelector(".row-tags").replaceChildren(...tags);
  }

  function drawSummary() {
    const marked = items.filter((item) => store.get(item).mark).length;
    at("summary").textContent = [
      data.blind ? "" : plain(data.title),
      text("of_decisions", { headnotes: counted(items.length, "headnote"), decisions: counted(data.decisions.length, "decision") }),
      text("n_unsupported", { n: items.filter(PROBLEMS.unsupported).length }),
      text("n_unfinished", { n: items.filter(PROBLEMS.unfinished).length }),
      text("n_marked", { n: marked }),
    ].filter(Boolean).join(" · ");
  }

  // One headnote

  function open(item) {
    show(item);
    document.body.dataset.view = "one";
    if (at("back").offsetParent) {
      at("name").focus({ preventScroll: true });
      scrollTo(0, 0);
    }
  }

  function show(item) {
    buttons.get(current)?.removeAttribute("aria-current");
    const same = current?.decision === item.decision;
    const kept = same ? at("decision").scrollTop : 0;
    current = item;
    buttons.get(item)?.setAttribute("aria-current", "true");
    buttons.get(item)?.scrollIntoView({ block: "nearest" });
    at("name").textContent = titleOf(item);
    at("facts").replaceChildren(...drawFacts(item));
    at("figures").replaceChildren(...drawFigures(item));
    drawHeadnote(at("headnote"), item.headnote, item.detected ?? item.lang, text("wrote_nothing"));
    drawVersions(item);
    drawHeadnote(at("reference"), item.reference, item.lang, text("no_official"));
    at("citations").replaceChildren(...drawCitations(item));
    at("evidence").replaceChildren(...item.evidence.map(drawEvidence));
    forgetPlace();
    drawDecision(item);
    at("decision").scrollTop = kept;
    if (!same) at("reading").scrollTop = 0;
    drawMarks();
    highlightDoubt(item);
    highlightDifferences();
    goToFound(highlightSearch());
  }

  function drawFacts(item) {
    const fact = (words, bad) => make("li", bad ? { className: "bad" } : {}, words);
    const { cut } = item.tokens;
    const facts = [fact(text("pair", { from: named(item.from), to: named(item.lang) }))];
    if (item.area) facts.push(fact(plain(item.area).replaceAll("_", " ")));
    if (item.year) facts.push(fact(plain(item.year)));
    if (cut > 0) facts.push(fact(text("not_read", { tokens: counted(cut, "token") })));
    if (item.finish === "length") facts.push(fact(text("cut_off"), true));
    if (item.finish === "loop") facts.push(fact(text("loop"), true));
    if (PROBLEMS.language(item)) facts.push(fact(text("instead", { language: named(item.detected), asked: named(item.lang) }), true));
    return facts;
  }

  /** What only those ask for who work with the model. */
  function drawFigures(item) {
    const { prompt, completion } = item.tokens;
    const figures = [text("figure_score", { score: scoreName(), value: shownScore(item.score) })];
    if (item.sample !== item.name) figures.push(text("figure_sample", { name: plain(item.sample) }));
    if (Number.isFinite(prompt) && Number.isFinite(completion)) {
      figures.push(text("figure_tokens", { read: number(prompt), written: number(completion) }));
    }
    if (item.doubt) figures.push(text("figure_doubt", { mean: item.doubt.mean.toFixed(2) }));
    return figures.map((figure) => make("li", {}, figure));
  }

  function drawHeadnote(box, segments, language, none) {
    speak(box, segments.length ? language : spoken);
    const drawn = segments.map((one) => (typeof one === "string" ? nodes(one) : drawCitation(one)));
    box.replaceChildren(...(segments.length ? drawn.flat() : [make("span", { className: "none" }, none)]));
  }

  /** What other files say of the same row, beside it; a click on a name opens that one. */
  function drawVersions(item) {
    at("version").textContent = compared ? fileOf(item) : "";
    at("version").hidden = !compared;
    const drawn = versionsBeside(item).map((other) => {
      const box = make("div", { className: "text" });
      drawHeadnote(box, other.headnote, other.detected ?? other.lang, text("wrote_nothing"));
      const button = make("button", { type: "button" }, fileOf(other));
      button.addEventListener("click", () => {
        show(other);
        at("name").focus({ preventScroll: true });
      });
      return make("div", { className: "version other" }, make("h4", {}, button), box);
    });
    at("versions").replaceChildren(at("versions").firstElementChild, ...drawn);
  }

  function drawCitation(one) {
    const title = `${plain(one.name)}: ${text(STATUS[one.status])}`;
    const properties = { className: `cite ${one.status}`, title };
    if (!one.places.length) return make("span", properties, ...nodes(one.text));
    const link = make("a", { ...properties, href: `#mark-${one.places[0]}` }, ...nodes(one.text));
    link.dataset.places = one.places.join(" ");
    return link;
  }

  function drawCitations(item) {
    const cited = Object.entries(item.citations);
    if (!cited.length) return [make("p", {}, text("cites_nothing"))];
    return Object.keys(STATUS).flatMap((status) => {
      const names = cited.filter((one) => one[1] === status).map(([name]) => plain(name));
      const label = make("strong", { className: status }, `${SIGNS[status]} ${text(STATUS[status])}: `);
      return names.length ? [make("p", {}, label, names.join(", "))] : [];
    });
  }

  /** A sentence's first words, and links to the considerations that support it. */
  function drawEvidence(one) {
    const begins = plain(one.text.trim().replace(/\s+/g, " "));
    const words = make("span", { className: "begins", title: begins }, begins);
    const links = one.places.map(({ name, strength, places }) => {
      const properties = { className: `cite place ${strength >= 50 ? "found" : "partly"}`, href: `#mark-${places[0]}` };
      const link = make("a", { ...properties, title: text("how_likely", { n: strength }) }, `${plain(name)} · ${strength} %`);
      link.dataset.places = places.join(" ");
      return link;
    });
    const said = links.length ? links : [make("span", { className: "none" }, text("no_evidence"))];
    const wrong = one.wrong.length ? [make("span", { className: "missing" }, text("points_wrong", { place: plain(one.wrong.join(", ")) }))] : [];
    return make("li", {}, words, make("span", { className: "places" }, ...said, ...wrong));
  }

  function drawDecision(item) {
    const { lang, paragraphs, law, url } = data.decisions[item.decision];
    const shown_ = [item, ...versionsBeside(item)].flatMap((one) => one.headnote);
    const cited = [...shown_, ...item.reference].flatMap((one) => one.places ?? []);
    const linked = new Set(cited);
    at("decision-name").textContent = `${text("decision")}${item.name ? `: ${plain(item.name)}` : ""}`;
    speak(at("paragraphs"), lang);
    const drawn = paragraphs.map((segments) => make("p", {}, ...segments.flatMap((one) =>
      typeof one === "string" ? nodes(one) : [one.page ? drawPage(one) : drawMark(one, linked.has(one.mark))])));
    if (law !== null) drawn.splice(law, 0, make("h4", { lang: spoken }, text("considerations")));
    if (law !== 0 && law !== null) drawn.unshift(make("h4", { lang: spoken }, text("facts")));
    at("paragraphs").replaceChildren(...drawn);
    at("contents").replaceChildren(...paragraphs.flat().filter((one) => one.head).map((one) =>
      make("a", { href: `#mark-${one.mark}`, className: "contents" }, plain(one.text))));
    at("court").hidden = !url;
    if (url) at("court").href = url;
  }

  /** Where the official collection turns a page: small, in the margin. */
  const drawPage = (one) => make("span", { className: "page" }, one.text.match(/S\. \d+$/)?.[0] ?? plain(one.text));

  function drawMark(one, linked) {
    const className = one.head ? "mark head" : "mark";
    if (!linked) return make("span", { className, id: `mark-${one.mark}`, tabIndex: -1 }, ...nodes(one.text));
    const title = text("linked");
    return make("a", { className, title, id: `mark-${one.mark}`, href: "#headnote" }, ...nodes(one.text));
  }

  // From a citation to its places and back

  function flash(node) {
    node.classList.remove("flash");
    void node.offsetWidth; // begin the animation anew
    node.classList.add("flash");
  }

  /** All places flash; each click goes to the next one. */
  function follow(link) {
    const places = link.dataset.places.split(" ").map((mark) => at(`mark-${mark}`));
    const turn = Number(link.dataset.turn ?? 0) % places.length;
    link.dataset.turn = turn + 1;
    places.forEach(flash);
    places[turn].scrollIntoView({ block: "center" });
    places[turn].focus({ preventScroll: true });
    at("place").textContent = text("place_of", { n: turn + 1, all: places.length });
    at("next").hidden = places.length < 2;
    at("linked").hidden = false;
    left = link;
  }

  let left = null; // the citation that was clicked, for the way back on a small screen

  function forgetPlace() {
    at("place").textContent = "";
    at("linked").hidden = true;
    left = null;
  }

  function goTo(link) {
    forgetPlace();
    link.scrollIntoView({ block: "center" });
    link.focus({ preventScroll: true });
  }

  function goBack(mark) {
    const number = mark.id.replace("mark-", "");
    const links = [...document.querySelectorAll("#versions a.cite, #reference a.cite, #evidence a.cite")];
    const citing = links.filter((link) => link.dataset.places.split(" ").includes(number));
    citing.forEach(flash);
    goTo(citing[0]);
  }

  function jump(link) {
    const place = document.querySelector(link.getAttribute("href"));
    flash(place);
    place.scrollIntoView({ block: "start" });
    place.focus({ preventScroll: true });
  }

  function clicked(event) {
    const link = event.target.closest("a[href^='#']");
    if (!link) return;
    event.preventDefault();
    if (link.matches(".cite")) follow(link);
    else if (link.matches(".contents")) jump(link);
    else goBack(link);
  }

  // What the search found, where the browser can show it without touching the texts

  /** Marks what was found; returns the ranges, in the order of the page. */
  function highlightSearch() {
    if (!CSS.highlights) return [];
    const words = terms().filter((word) => word.length > 1);
    const ranges = [];
    const walker = document.createTreeWalker(at("texts").parentNode, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); words.length && node && ranges.length < 2000; node = walker.nextNode()) {
      const folded = node.data.toLowerCase();
      if (!node.parentNode.closest(".text") || folded.length !== node.data.length) continue;
      for (const word of words) {
        for (let i = folded.indexOf(word); i >= 0; i = folded.indexOf(word, i + word.length)) {
          ranges.push(new StaticRange({ startContainer: node, startOffset: i, endContainer: node, endOffset: i + word.length }));
        }
      }
    }
    CSS.highlights.set("search", new Highlight(...ranges));
    return ranges;
  }

  /** Words that the model found improbable; their places count characters, which JavaScript has in one or two units. */
  function highlightDoubt(item) {
    if (!CSS.highlights) return;
    const units = [0];
    for (const character of item.words) units.push(units.at(-1) + character.length);
    const ranges = [];
    let at_ = 0;
    const walker = document.createTreeWalker(at("headnote"), NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      for (const [first, last] of item.doubt?.words ?? []) {
        const [start, end] = [units[first] - at_, units[last] - at_].map((place) => Math.max(0, Math.min(place, node.length)));
        if (start < end) {
          ranges.push(new StaticRange({ startContainer: node, startOffset: start, endContainer: node, endOffset: end }));
        }
      }
      at_ += node.length;
    }
    CSS.highlights.set("doubt", new Highlight(...ranges));
  }

  // Words of one headnote that the other does not have, in their order

  function words(box) {
    const found = [];
    const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      for (const { 0: word, index } of node.data.matchAll(/[\p{L}\p{N}]+/gu)) found.push({ word: word.toLowerCase(), node, index });
    }
    return found;
  }

  /** Those of either that are not in their longest common subsequence. */
  function different(one, other) {
    const lengths = Array.from({ length: one.length + 1 }, () => new Uint16Array(other.length + 1));
    for (let i = one.length - 1; i >= 0; i -= 1) {
      for (let j = other.length - 1; j >= 0; j -= 1) {
        lengths[i][j] = one[i].word === other[j].word ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
      }
    }
    const apart = [];
    let [i, j] = [0, 0];
    while (i < one.length && j < other.length) {
      if (one[i].word === other[j].word) [i, j] = [i + 1, j + 1];
      else if (lengths[i + 1][j] >= lengths[i][j + 1]) apart.push(one[i++]);
      else apart.push(other[j++]);
    }
    return [...apart, ...one.slice(i), ...other.slice(j)];
  }

  function highlightDifferences() {
    if (!CSS.highlights) return;
    const shown_ = at("differ").getAttribute("aria-pressed") === "true";
    const apart = shown_ ? different(words(at("headnote")), words(at("reference"))) : [];
    CSS.highlights.set("differences", new Highlight(...apart.map(({ word, node, index }) =>
      new StaticRange({ startContainer: node, startOffset: index, endContainer: node, endOffset: index + word.length }))));
  }

  function toggleDifferences() {
    at("differ").setAttribute("aria-pressed", String(at("differ").getAttribute("aria-pressed") !== "true"));
    highlightDifferences();
  }

  /** What only the decision has is scrolled to. */
  function goToFound([first]) {
    const pane = at("decision");
    if (!first || !pane.contains(first.startContainer)) return;
    const range = document.createRange();
    range.setStart(first.startContainer, first.startOffset);
    pane.scrollTop += range.getBoundingClientRect().top - pane.getBoundingClientRect().top - pane.clientHeight / 3;
  }

  // Marks

  function drawMarks() {
    const { mark, comment } = store.get(current);
    for (const button of at("marks").querySelectorAll("[data-mark]")) {
      button.setAttribute("aria-pressed", String(button.dataset.mark === mark));
    }
    if (at("comment").value !== comment) at("comment").value = comment;
    at("others").replaceChildren(...marksOfOthers(current).map(({ name, mark: theirs, comment: said }) =>
      make("li", {}, `${plain(name)}: `, make("span", { className: `tag ${theirs ?? ""}` }, text(theirs ?? "not_marked")), said ? ` ${plain(said)}` : "")));
    at("printed").textContent = [text("mark"), text(mark ?? "not_marked"), comment].filter(Boolean).join(": ");
    drawTags(current);
    drawSummary();
  }

  function setMark(mark) {
    if (!current) return;
    at("notice").hidden = true;
    store.set(current, { mark: store.get(current).mark === mark ? null : mark });
    drawMarks();
  }

  // On paper: all headnotes that the filters leave

  function drawOnPaper(item) {
    const [written, official] = [make("div", { className: "text" }), make("div", { className: "text" })];
    drawHeadnote(written, item.headnote, item.detected ?? item.lang, text("wrote_nothing"));
    drawHeadnote(official, item.reference, item.lang, text("no_official"));
    const { mark, comment } = store.get(item);
    const said = [{ name: at("reviewer").value, mark, comment }, ...marksOfOthers(item)].filter((one) => one.mark || one.comment);
    const [cites, places] = [make("div", { className: "citations" }, ...drawCitations(item)),
      make("ol", { className: "evidence" }, ...item.evidence.map(drawEvidence))];
    return make("section", {}, make("h2", {}, titleOf(item)), make("h3", {}, text("generated")), written,
      make("h3", {}, text("official")), official, make("h3", {}, text("citations")), cites, make("h3", {}, text("says_it")), places,
      ...said.map((one) => make("p", {}, [one.name, one.mark && text(one.mark), one.comment].filter(Boolean).map(plain).join(": "))));
  }

  // Keys

  const FIELDS = "input, select, textarea";
  const MARK_KEYS = { 1: "good", 2: "wrong", 3: "unsure" };

  function step(by) {
    const index = shown.indexOf(current);
    const next = shown[index < 0 ? 0 : index + by];
    if (!next) return;
    show(next);
    if (!document.activeElement.closest("#texts, #decision")) buttons.get(next).focus({ preventScroll: true });
  }

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || at("help").open) return;
    const inField = event.target.closest(FIELDS);
    if (event.key === "Escape" && inField) inField.blur();
    if (inField || !at("single-keys").checked) return;
    const scrolls = event.target.closest("#texts, #decision"); // there the arrows scroll
    if (event.key === "j" || (event.key === "ArrowDown" && !scrolls)) step(1);
    else if (event.key === "k" || (event.key === "ArrowUp" && !scrolls)) step(-1);
    else if (event.key === "/") search();
    else if (event.key in MARK_KEYS) setMark(MARK_KEYS[event.key]);
    else if (event.key === "c") comment();
    else if (event.key === "d") toggleDifferences();
    else if (event.key === "?") help();
    else return;
    event.preventDefault();
  }

  function comment() {
    if (!current) return;
    document.body.dataset.view = "one";
    at("comment").focus();
  }

  function search() {
    backToList();
    at("search").focus();
    at("search").select();
  }

  function help() {
    at("help").showModal();
    at("close").focus(); // the attribute autofocus is looked at while the page loads, and complained of
  }

  function backToList() {
    document.body.dataset.view = "list";
    buttons.get(current)?.scrollIntoView({ block: "nearest" });
  }

  // Beginning

  for (const pair of [...new Set(items.map(pairOf))].sort()) {
    at("pair").append(make("option", { value: pair }, plain(pair)));
  }
  let waiting = 0;
  at("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(drawList, 120);
  });
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["pair", "problem", "mark"]) at(id).addEventListener("change", drawList);
  at("order").addEventListener("change", () => {
    drawList();
    if (shown.length) show(shown[0]);
  });
  at("marks").addEventListener("click", (event) => {
    const button = event.target.closest("[data-mark]");
    if (button) setMark(button.dataset.mark);
  });
  at("comment").addEventListener("input", () => {
    store.set(current, { comment: at("comment").value });
    drawMarks();
  });
  at("export").addEventListener("click", () => exportMarks("json"));
  at("export-csv").addEventListener("click", () => exportMarks("csv"));
  at("reviewer").value = remembered(NAME);
  at("reviewer").addEventListener("input", () => remember(NAME, at("reviewer").value));
  at("language").addEventListener("change", () => {
    remember(LANGUAGE, at("language").value);
    speakTo(at("language").value);
    drawList();
    if (current) show(current);
  });
  at("problem").querySelector("[value=disagree]").hidden = data.reviewers.length < 2;
  at("print").addEventListener("click", () => print());
  at("keys").addEventListener("click", help);
  at("differ").addEventListener("click", toggleDifferences);
  at("back").addEventListener("click", backToList);
  at("next").addEventListener("click", () => follow(left));
  at("return").addEventListener("click", () => goTo(left));
  addEventListener("beforeprint", () => at("paper").replaceChildren(...shown.map(drawOnPaper)));
  addEventListener("afterprint", () => at("paper").replaceChildren());
  document.addEventListener("click", clicked);
  document.addEventListener("keydown", pressed);
  addEventListener("storage", (event) => {
    if (event.key !== store.name) return;
    store.load();
    items.forEach(drawTags);
    drawMarks();
  });

  if (compared) document.body.dataset.compared = "";
  speakTo(preferred());
  store.load();
  drawList();
})();
