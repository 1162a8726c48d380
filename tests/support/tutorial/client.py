"""What the web side of the project does: sends tasks, and prints what came of them."""

from proj.tasks import add, fetch, mul, send_mail, xsum

print("add", add.delay(4, 4).get(timeout=20))
print("mul", mul.apply_async((4, 4), countdown=0.1).get(timeout=20))
print("xsum", xsum.delay([1, 2, 3]).get(timeout=20))
print("here", add(2, 2), add.apply((2, 3)).get())

mail = send_mail.delay("ann@example.org", busy_times=2)
print("mail", mail.get(timeout=20), mail.state, mail.successful())

lost = fetch.delay("example.org")
try:
    lost.get(timeout=20)
except ConnectionError as exc:
    print("fetch", exc, lost.state, lost.failed())
print("fetch", repr(lost.get(propagate=False)), "ConnectionError" in lost.traceback)

linked = add.apply_async((2, 2), link=mul.s(8))
print("linked", linked.get(timeout=20))
print("signature", add.s(2).delay(3).get(timeout=20), add.si(1, 1).apply_async().get(timeout=20))
