"""Requests that schemathesis takes for wrong and HTTP does not: a header that nobody knows is no mistake."""

import schemathesis


@schemathesis.hook
def filter_case(context, case):
    return "x-schemathesis-unknown-property" not in (case.headers or {})
