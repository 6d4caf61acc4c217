from google.protobuf.any_pb2 import Any as Any
from google.protobuf.empty_pb2 import Empty as Empty
from google.protobuf.timestamp_pb2 import Timestamp as Timestamp
