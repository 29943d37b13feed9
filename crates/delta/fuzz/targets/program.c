// The small program that seeds are made of, twice: without and with -DNEW, stripped and not. See ci/fuzz.
static const char *names[] = {"one", "two", "three", "four", "five"};
extern int other(const char *, int);
int table[64];
#ifdef NEW
__attribute__((noinline)) int added(int a) { return table[a & 63] * 3 + other(names[a % 5], a); }
#endif
int choose(int which, int b) {
  switch (which) {
    case 0: return other("alpha", b) + 1;
    case 1: return table[b & 7] - 2;
    case 2: return other("beta", b * 2);
    case 3: return other(names[b % 5], 7);
    case 4: return b * b;
    case 5: return other("gamma", 1) * other("delta", 2);
    default: return -1;
  }
}
int loop(int n) {
  int sum = 0;
  for (int i = 0; i < n; i++) { table[i & 63] += choose(i % 7, i);
#ifdef NEW
    sum += added(i);
#endif
    sum += table[(i * 7) & 63]; }
  return sum;
}
int (*pointers[])(int) = {loop, loop};
