"""Recorded graphs in place of a device's, so that what is captured and replayed can be tested on cpu."""

import contextlib

from models.steps.graphs import GraphApi
from tests.fake_accelerator import fake_graph

ON_CPU = GraphApi(fake_graph.FAKEGraph, fake_graph.graph, contextlib.nullcontext)
