// Shared state of the sections: the selected token.

/** Listeners are called with the selected token, immediately and on every selection. */
function choiceOfToken(first) {
  const listeners = [];
  let token = first;
  return {
    get token() {
      return token;
    },
    choose(next) {
      if (next === token) return;
      token = next;
      for (const listener of listeners) listener(token);
    },
    onchange(listener) {
      listeners.push(listener);
      listener(token);
    },
  };
}
