// Pages opened from a folder may start no worker. There the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      const inside = frame.contentWindow;
      inside.document.open();
      inside.document.write(
        "<script>" +
          "function postMessage(data) { parent.dispatchEvent(new MessageEvent('from-search', { data })) }" +
          "function importScripts(...urls) {" +
          "  return urls.reduce((done, url) => done.then(() => new Promise((resolve) => {" +
          "    const script = document.createElement('script');" +
          "    script.src = url; script.onload = resolve; document.body.appendChild(script) })), Promise.resolve()) }" +
          "<\/script><body><script src='" + url + "'><\/script></body>");
      inside.document.close();
      this.queue = [];
      this.ready = false;
      frame.addEventListener("load", () => {
        this.ready = true;
        this.queue.forEach((data) => this.postMessage(data));
      });
      this.inside = inside;
      window.addEventListener("from-search", (event) => {
        const told = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(told);
        if (this.onmessage) this.onmessage(told);
      });
    }
    postMessage(data) {
      if (this.ready) this.inside.dispatchEvent(new MessageEvent("message", { data }));
      else this.queue.push(data);
    }
    terminate() {}
  };
}
