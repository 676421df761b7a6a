"""The open inference protocol: every model described and asked, with the answers it gives in process."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from fullbore.models.predict import predict
from fullbore.models.weights import LoadedModel

Models = dict[str, LoadedModel]
RANDOM = np.random.default_rng(0)
TEXTS = ["buy now", "", "中文也是", "the quick brown fox " * 20]
FEATURES = RANDOM.normal(size=(5, 3)).astype(np.float32)
PIXELS = RANDOM.integers(0, 256, (4, 1, 8, 8))


def tensor(name: str, datatype: str, values: Any, shape: list[int] | None = None) -> dict[str, Any]:
    array = np.asarray(values, dtype=object)
    return {
        "name": name,
        "shape": list(array.shape) if shape is None else shape,
        "datatype": datatype,
        "data": array.reshape(-1).tolist(),
    }


def post(client: httpx.Client, model: str, *inputs: dict[str, Any], **rest: Any) -> httpx.Response:
    content = json.dumps({"inputs": list(inputs), **rest})
    return client.post(f"/v2/models/{model}/infer", content=content, headers={"content-type": "application/json"})


def infer(client: httpx.Client, model: str, *inputs: dict[str, Any], **rest: Any) -> dict[str, list[Any]]:
    answer = post(client, model, *inputs, **rest)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["model_name"] == model
    for output in body["outputs"]:
        assert len(output["data"]) == int(np.prod(output["shape"]))
    return {output["name"]: output["data"] for output in body["outputs"]}


def test_texts_are_classified_as_in_process(client: httpx.Client, models: Models) -> None:
    found = infer(client, "spam", tensor("text", "BYTES", TEXTS))
    wanted = predict(models["spam"], TEXTS)
    assert found["label"] == [one["label"] for one in wanted]
    assert found["score"] == [one["score"] for one in wanted]
    assert len(found["logits"]) == 8


def test_images_are_classified_as_in_process(client: httpx.Client, models: Models) -> None:
    found = infer(client, "fashion", tensor("pixels", "UINT8", PIXELS))
    wanted = predict(models["fashion"], PIXELS)
    assert found["label"] == [one["label"] for one in wanted]
    assert found["score"] == [one["score"] for one in wanted]


def test_features_are_valued_as_in_process_on_the_scale_they_were_measured(
    client: httpx.Client, models: Models
) -> None:
    found = infer(client, "diabetes", tensor("features", "FP32", FEATURES.tolist()))
    assert found["value"] == [one["value"] for one in predict(models["diabetes"], FEATURES.tolist())]
    assert abs(np.mean(found["value"]) - 150) < 200


def test_a_model_without_class_names_answers_their_numbers(client: httpx.Client) -> None:
    found = infer(client, "digits", tensor("features", "FP32", [[1.0, 2.0, 3.0, 4.0]]))
    assert found["label"][0] in ("0", "1", "2")


def test_a_language_model_continues_texts(client: httpx.Client) -> None:
    found = infer(client, "lm", tensor("text", "BYTES", ["def ", "the "]), parameters={"max_tokens": 12})
    body = {"model": "lm", "prompt": ["def ", "the "], "max_tokens": 12, "temperature": 0}
    wanted = client.post("/v1/completions", json=body).json()
    assert found == {"text": [choice["text"] for choice in wanted["choices"]]}


def test_nested_data_and_chosen_outputs_and_the_id_come_back(client: httpx.Client) -> None:
    nested = {"name": "features", "shape": [5, 3], "datatype": "FP32", "data": FEATURES.tolist()}
    flat = tensor("features", "FP32", FEATURES.tolist())
    assert infer(client, "diabetes", nested) == infer(client, "diabetes", flat)
    answer = post(client, "fashion", tensor("pixels", "UINT8", PIXELS), id="q-7", outputs=[{"name": "score"}]).json()
    assert answer["id"] == "q-7"
    assert [output["name"] for output in answer["outputs"]] == ["score"]


def test_requests_that_share_a_batch_get_their_own_answers(client: httpx.Client, models: Models) -> None:
    texts = [f"{'word ' * (index % 17)}{index}" for index in range(60)]
    wanted = [predict(models["spam"], [text])[0] for text in texts]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda text: infer(client, "spam", tensor("text", "BYTES", [text])), texts))
    assert [one["label"] for one in found] == [[one["label"]] for one in wanted]
    assert np.allclose([one["score"][0] for one in found], [one["score"] for one in wanted], atol=1e-5)


def test_more_samples_than_one_call_takes(client: httpx.Client, models: Models) -> None:
    texts = [f"text {index}" for index in range(70)]
    found = infer(client, "spam", tensor("text", "BYTES", texts))
    wanted = predict(models["spam"], texts)
    assert found["label"] == [one["label"] for one in wanted]
    assert np.allclose(found["score"], [one["score"] for one in wanted], atol=1e-5)


def test_models_are_described(client: httpx.Client, models: Models) -> None:
    assert client.get("/v2").json()["name"] == "fullbore"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for name in models:
        described = client.get(f"/v2/models/{name}").json()
        assert described["name"] == name
        assert {"name", "datatype", "shape"} == set(described["inputs"][0]) == set(described["outputs"][0])
        assert client.get(f"/v2/models/{name}/ready").json() == {"name": name, "ready": True}
    assert client.get("/v2/models/fashion").json()["inputs"] == [
        {"name": "pixels", "datatype": "UINT8", "shape": [-1, 1, 8, 8]}
    ]


FINE = tensor("features", "FP32", [[1.0, 2.0, 3.0]])


@pytest.mark.parametrize(
    ("model", "inputs", "field", "says"),
    [
        ("diabetes", [], "inputs", "expected"),
        ("diabetes", [FINE, FINE], "inputs", "found features, features, expected features alone"),
        ("diabetes", [{**FINE, "name": "x"}], "inputs", "found x, expected features alone"),
        ("diabetes", [{**FINE, "datatype": "FP64"}], "features", "found datatype 'FP64', expected FP32"),
        ("diabetes", [{**FINE, "shape": [1, 4]}], "features", "found shape [1, 4], expected [n, 3]"),
        ("diabetes", [{**FINE, "shape": [3]}], "features", "found shape [3], expected [n, 3]"),
        ("diabetes", [{**FINE, "shape": [0, 3], "data": []}], "features", "with n from 1 to 4096"),
        ("diabetes", [{**FINE, "shape": [-1, 3]}], "features", "found shape [-1, 3]"),
        ("diabetes", [{**FINE, "shape": [10**30, 3]}], "features", "found shape [huge, 3]"),
        ("diabetes", [{**FINE, "shape": [2, 3]}], "features", "found 3 values, expected 6"),
        ("diabetes", [{**FINE, "shape": ["1", 3]}], "inputs.0.shape.0", "expected a valid integer"),
        ("diabetes", [{**FINE, "data": [1, 2, "3"]}], "features", "found a string of 1 characters, expected numbers"),
        ("diabetes", [{**FINE, "data": [1, 2, True]}], "features", "found true, expected numbers"),
        ("diabetes", [{**FINE, "data": [1, 2, None]}], "features", "found null"),
        ("diabetes", [{**FINE, "data": [1, 2, 1e300]}], "features", "expected FP32 from"),
        ("diabetes", [{**FINE, "data": [1, 2, 10**60]}], "features", "found a huge integer"),
        ("diabetes", [{**FINE, "data": [[1, 2], [3]]}], "features", "found 2 rows of data, expected 1"),
        ("diabetes", [{**FINE, "data": [[1, 2]]}], "features", "not nested as shape [1, 3]"),
        ("diabetes", [{**FINE, "data": "1,2,3"}], "inputs.0.data", "expected a valid list"),
        ("diabetes", [{**FINE, "extra": 1}], "inputs.0.extra", "unknown"),
        ("fashion", [tensor("pixels", "UINT8", [[[[256] * 8] * 8]])], "pixels", "found the number 256"),
        ("fashion", [tensor("pixels", "UINT8", [[[[0.5] * 8] * 8]])], "pixels", "expected integers"),
        ("spam", [tensor("text", "BYTES", [1])], "text", "found the number 1, expected strings"),
        ("spam", [tensor("text", "BYTES", [["a"]])], "text", "found shape [1, 1], expected [n]"),
        ("spam", [tensor("text", "BYTES", ["\ud800"])], "text", "half of a surrogate pair"),
        ("lm", [tensor("text", "BYTES", ["a b c d " * 200])], "text", "expected at most 256 together"),
    ],
)
def test_what_is_wrong_is_named(
    client: httpx.Client, model: str, inputs: list[dict[str, Any]], field: str, says: str
) -> None:
    told = refused(post(client, model, *inputs), 400)
    assert told.startswith(f"{field}: ")
    assert says in told


def refused(answer: httpx.Response, status: int) -> str:
    """The message of the protocol's error object, which holds nothing else."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"error"} and isinstance(body["error"], str)
    return str(body["error"])


def test_parameters_that_nobody_knows_are_ignored(client: httpx.Client) -> None:
    """The protocol leaves parameters to the server; binary_data = false asks for what is done anyway."""
    loose = {"priority": 1, "binary_data": False, "binary_data_size": None}
    wanted = infer(client, "digits", tensor("features", "FP32", [[1.0, 2.0, 3.0, 4.0]]))
    given = {**tensor("features", "FP32", [[1.0, 2.0, 3.0, 4.0]]), "parameters": loose}
    outputs = [{"name": name, "parameters": loose} for name in wanted]
    assert infer(client, "digits", given, outputs=outputs, parameters={**loose, "max_tokens": "x"}) == wanted
    text = tensor("text", "BYTES", ["def "])
    assert infer(client, "lm", text, parameters={"max_tokens": 3, **loose}) == infer(
        client, "lm", text, parameters={"max_tokens": 3}
    )


def test_parameters_that_cannot_be_honoured_are_named(client: httpx.Client) -> None:
    text = tensor("text", "BYTES", ["a"])
    expected = "is not supported here, tensors travel as JSON; leave it out or make it false"
    binary = {key: value for key, value in text.items() if key != "data"} | {"parameters": {"binary_data_size": 5}}
    told = refused(post(client, "spam", binary), 400)
    assert told == f"inputs.0.parameters: binary_data_size {expected}"
    asked = post(client, "spam", text, outputs=[{"name": "label", "parameters": {"binary_data": True}}])
    assert refused(asked, 400) == f"outputs.0.parameters: binary_data {expected}"
    whole = post(client, "lm", text, parameters={"binary_data_output": True})
    assert refused(whole, 400) == f"parameters: binary_data_output {expected}"
    assert "parameters.max_tokens: found" in refused(post(client, "lm", text, parameters={"max_tokens": -1}), 400)
    assert "max_tokens: found" in refused(post(client, "lm", text, parameters={"max_tokens": 201}), 400)
    assert refused(post(client, "spam", text, outputs=[{"name": "x"}]), 400).startswith("outputs: found 'x'")


def test_unknown_models_versions_and_binary_tensors_are_refused(client: httpx.Client) -> None:
    assert refused(post(client, "nobody", FINE), 404).startswith("no model 'nobody'")
    headers = {"content-type": "application/json", "inference-header-content-length": "5"}
    binary = client.post("/v2/models/diabetes/infer", content=b"{}", headers=headers)
    assert refused(binary, 415).startswith("binary tensors")
    for method, rest in (("GET", ""), ("GET", "/ready"), ("POST", "/infer")):
        versioned = client.request(method, f"/v2/models/diabetes/versions/1{rest}")
        assert refused(versioned, 404).startswith("model 'diabetes' has no versions, found '1'")
    assert refused(client.get("/v2/models/nobody/versions/1"), 404).startswith("no model 'nobody'")
    refused(client.get("/v2/nothing"), 404)
    refused(client.get("/v2/models/diabetes/infer"), 405)


def test_answers_hold_what_the_protocol_says_and_nothing_else(client: httpx.Client, models: Models) -> None:
    """Each output that the metadata declares comes with that datatype and shape, its data in row-major order."""
    inputs = {
        "lm": tensor("text", "BYTES", ["a", "b"]),
        "spam": tensor("text", "BYTES", ["a", "b"]),
        "fashion": tensor("pixels", "UINT8", PIXELS[:2]),
        "diabetes": tensor("features", "FP32", FEATURES[:2].tolist()),
        "digits": tensor("features", "FP32", [[1.0, 2.0, 3.0, 4.0]] * 2),
    }
    for name in models:
        described = client.get(f"/v2/models/{name}").json()
        assert described.keys() <= {"name", "versions", "platform", "inputs", "outputs", "parameters"}
        answer = post(client, name, inputs[name]).json()
        assert answer.keys() == {"model_name", "outputs"}
        assert post(client, name, inputs[name], id="").json()["id"] == ""
        assert [output["name"] for output in answer["outputs"]] == [one["name"] for one in described["outputs"]]
        for told, given in zip(described["outputs"], answer["outputs"], strict=True):
            assert given.keys() == {"name", "shape", "datatype", "data"}
            assert given["datatype"] == told["datatype"]
            assert given["shape"] == [2, *told["shape"][1:]]
            kind = str if given["datatype"] == "BYTES" else float
            assert {type(value) for value in given["data"]} == {kind}
    assert client.get("/v2").json().keys() == {"name", "version", "extensions"}
