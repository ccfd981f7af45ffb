"use strict";
(() => {
	const element = id => document.getElementById(id);
	const silence = 25000; // the server says something every 10 seconds
	const slowest = 5000; // between two attempts to connect
	const memory = "quorate-dashboard-token";

	// The token is in the part of the link that browsers send to nobody. It leaves the address, so that no picture of the screen has it.
	function findToken() {
		const given = new URLSearchParams(location.hash.slice(1)).get("token");
		try {
			if (given) {
				history.replaceState(null, "", location.pathname);
				sessionStorage.setItem(memory, given);
			}
			return given || sessionStorage.getItem(memory);
		} catch {
			return given; // storage may be forbidden: the page then works until it is loaded again
		}
	}

	const token = findToken();
	let heard = null; // when the server last said something
	let spoken = ""; // what was last announced
	let problem = ""; // why there is no connection
	let paused = false;
	const waiting = new Map(); // parts that are not shown yet

	const clock = t => t.toISOString().slice(0, 19).replace("T", " ") + " UTC";

	function announce(words) {
		if (words && words !== spoken) {
			spoken = words;
			element("announce").textContent = words;
		}
	}

	function lost(title, why) {
		element("lost-title").textContent = title;
		element("lost-why").textContent = why;
		element("lost").hidden = !title;
		document.body.classList.toggle("lost", Boolean(title));
		mark();
	}

	let observedStale = false;
	function mark() {
		document.body.classList.toggle("stale", observedStale || document.body.classList.contains("lost"));
	}

	// show replaces a part of the page, and keeps what people did there: opened details, the focus, how far a table was scrolled.
	function show(id, html) {
		const at = element(id);
		if (!at) return;
		const opened = [...at.querySelectorAll("details[id]")].map(d => [d.id, d.open]);
		const scrolled = [...at.querySelectorAll(".scroll[id]")].map(s => [s.id, s.scrollLeft]);
		const focus = at.contains(document.activeElement) ? document.activeElement.id : "";
		at.innerHTML = html;
		for (const [d, open] of opened) if (element(d)) element(d).open = open;
		for (const [s, left] of scrolled) if (element(s)) element(s).scrollLeft = left;
		if (focus && element(focus)) element(focus).focus({preventScroll: true});
	}

	// Whoever selects a text wants to copy it: the part with it waits.
	function selected(id) {
		const s = getSelection();
		return s && !s.isCollapsed && element(id) && s.containsNode(element(id), true);
	}

	function showWaiting() {
		if (paused) return;
		for (const [id, html] of waiting) {
			if (selected(id)) continue;
			waiting.delete(id);
			show(id, html);
		}
	}

	let pausedAt = null;

	// tell says whether what is shown is up to date.
	function tell() {
		pausedAt = paused ? pausedAt || new Date() : null;
		if (paused) element("connection").textContent = "Paused at " + clock(pausedAt) + ".";
		else if (heard) element("connection").textContent = "Live. The dashboard last answered at " + clock(heard) + ".";
	}

	function receive(message) {
		heard = new Date();
		lost("", "");
		for (const part of message.parts || []) waiting.set(part.id, part.html);
		if (message.title) document.title = message.title;
		if ("stale" in message) observedStale = message.stale;
		mark();
		showWaiting();
		announce(message.announce);
		tell();
	}

	// follow reads events until the connection ends. It says whether it may be tried again.
	async function follow() {
		problem = "quorate dashboard does not answer.";
		const abort = new AbortController();
		let timer = 0;
		const listen = () => {
			clearTimeout(timer);
			timer = setTimeout(() => abort.abort(), silence);
		};
		listen();
		try {
			const answer = await fetch("events", {headers: {Authorization: "Bearer " + token}, cache: "no-store", credentials: "omit", signal: abort.signal});
			if (answer.status === 401) return false;
			if (!answer.ok) { // it says why, as when too many browsers follow it
				problem = (await answer.text()).trim() + ".";
				return true;
			}
			const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
			for (let text = "";;) {
				const {value, done} = await reader.read();
				if (done) return true;
				listen();
				text += value;
				for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
					const data = text.slice(0, end).split("\n").filter(l => l.startsWith("data: ")).map(l => l.slice(6)).join("\n");
					if (data) receive(JSON.parse(data));
				}
			}
		} catch {
			return true;
		} finally {
			clearTimeout(timer);
			abort.abort();
		}
	}

	function refused(why) {
		element("connection").textContent = "Not connected.";
		lost("No access: " + why, "Open the link that quorate dashboard printed when it was started. It is different each time.");
		announce("No access: " + why);
	}

	element("pause").addEventListener("click", () => {
		paused = !paused;
		element("pause").setAttribute("aria-pressed", String(paused));
		showWaiting();
		tell();
	});
	document.addEventListener("selectionchange", showWaiting);

	(async () => {
		if (!token) return refused("the link has no token.");
		for (let pause = 250;;) {
			const before = heard;
			if (!await follow()) return refused("the token is not that of this dashboard.");
			if (heard !== before) pause = 250;
			const since = heard ? "Stale since " + clock(heard) : "Not connected";
			element("connection").textContent = "Reconnecting …";
			lost(since + ": " + problem, (heard ? "What is below was true then. " : "") + "That this page gets no answer does not mean that the cluster is down.");
			announce(since + ": " + problem);
			await new Promise(done => setTimeout(done, pause));
			pause = Math.min(2 * pause, slowest);
		}
	})();
})();
